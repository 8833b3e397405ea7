"""Which token says which character, for every kind of tokenizer, against decoding every beginning."""

from __future__ import annotations

import random
import time
from itertools import accumulate

import pytest
import torch

from llava_rlhf.assembly import token_text as module
from llava_rlhf.assembly.token_text import REPLACEMENT, TokenText, at_tokens, token_text
from models.vlm import load_tokenizer
from tests.support.tiny_families import TINY_FAMILIES

LLAMA = "sentencepiece of Llama"
NAMES = (*(family.model_type for family in TINY_FAMILIES), LLAMA)
TEXTS = (
    "The image is red. Is there a cat?\nyes, two.",
    "Ein Café für naïve Gäste: ça va, e\u0301tude, Ναι.",
    "猫が好き。犬も！ 한국어 العربية हिन्दी",
    "🐈 a 👩‍👩‍👧 and 🏳️‍🌈! ok 🐕",
    "  spaces   and\ttabs \n\n ",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, llama_tokenizer):
    folder = tmp_path_factory.mktemp("bases")
    found = {family.model_type: family.save(folder / family.model_type) for family in TINY_FAMILIES}
    return {LLAMA: llama_tokenizer, **{name: load_tokenizer(str(base)) for name, base in found.items()}}


@pytest.fixture(params=NAMES)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def by_beginnings(tokenizer, ids):
    """Characters that every beginning of the ids shares with the whole text; bytes of half a character are none."""
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    left, right = len(whole) - len(whole.lstrip()), len(whole.rstrip())
    beginnings = [tokenizer.decode(ids[: at + 1], skip_special_tokens=True) for at in range(len(ids))]
    # A byte that is alone takes the ASCII byte before it along, for as long as it is alone.
    lengths = accumulate((len(beginning.rstrip(REPLACEMENT)) for beginning in beginnings), max)
    return [max(min(length, right) - left, 0) for length in lengths]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_every_tokenizer(tokenizer, text):
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    found = token_text(tokenizer, ids)
    assert found.text == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert found.ends == by_beginnings(tokenizer, ids)
    assert found.ends[-1] == found.ends[-2], "the stop token says nothing"
    for end in range(len(found.text) + 1):
        at = found.token_of(end)
        assert found.ends[at] >= end and (at == 0 or found.ends[at - 1] < end)


def test_a_character_belongs_to_the_last_of_its_tokens(tokenizers):
    for name in ("qwen2_5_vl", "gemma3", LLAMA):
        ids = tokenizers[name].encode("🐈", add_special_tokens=False)
        assert len(ids) >= 4, name
        found = token_text(tokenizers[name], ids)
        assert found.text == "🐈" and found.ends == [0] * (len(ids) - 1) + [1], name


def test_a_character_that_is_cut_off_is_said_by_the_last_token(tokenizers):
    tokenizer = tokenizers["qwen2_5_vl"]
    ids = tokenizer.encode("a 🐈", add_special_tokens=False)[:-1]
    found = token_text(tokenizer, ids)
    assert found.text == "a " + REPLACEMENT and found.ends[-1] == 3 and found.ends[-2] == 2


def test_any_ids_have_the_text_that_is_written_of_them(tokenizer):
    """Bytes in disorder, as a policy may say them, control tokens between them."""
    numbers = random.Random(0)
    for _ in range(30):
        ids = [numbers.randrange(len(tokenizer)) for _ in range(numbers.randrange(1, 30))]
        found = token_text(tokenizer, ids)
        assert found.text == tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert len(found.ends) == len(ids) and found.ends == sorted(found.ends)
        assert found.ends[-1] == len(found.text)
        if REPLACEMENT not in found.text:
            assert found.ends == by_beginnings(tokenizer, ids)


def test_both_ways_agree(tokenizers):
    for name in ("qwen2_5_vl", LLAMA):
        ids = tokenizers[name].encode(" ".join(TEXTS), add_special_tokens=False)
        whole = tokenizers[name].decode(ids, skip_special_tokens=True)
        fast, slow = (
            way(tokenizers[name], ids, whole) for way in (module._streamed_ends, module._prefix_ends)
        )
        assert fast == slow, name


def test_long_responses_take_linear_time(tokenizers):
    tokenizer = tokenizers[LLAMA]
    times = []
    for count in (1, 16):
        ids = tokenizer.encode(TEXTS[0] * 40 * count, add_special_tokens=False)
        started = time.process_time()
        token_text(tokenizer, ids)
        times.append(time.process_time() - started)
    assert times[1] < 80 * max(times[0], 0.001)  # by the square it would be 256 times as long


def test_amounts_by_hand():
    # "Hi. Yes" of the tokens "Hi", ".", " Yes" and a stop; one token without text.
    texts = [TokenText("Hi. Yes", [2, 3, 7, 7]), TokenText("", [0])]
    spans = [[(3, 0.5), (7, -1.0), (1, 2.0), (2, 0.25)], [(0, 4.0)]]
    expected = [[2.25, 0.5, -1.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0, 0.0]]
    assert torch.equal(at_tokens(texts, spans, 5), torch.tensor(expected))
    for end in (-1, 8):
        with pytest.raises(ValueError, match=f"character {end} of a text of 7"):
            at_tokens(texts, [[(end, 1.0)], []], 5)
