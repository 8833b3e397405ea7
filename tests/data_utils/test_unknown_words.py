"""What the vocabulary lacks is counted, named, and warned of where it is much."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data_utils.building import build_dialogues
from data_utils.summary import format_report, vocabulary_warnings
from data_utils.tokens import SegmentEncoder
from llava_rlhf.runs.logs import announce
from tests.data_utils.rows import FACTS, gpt, human, preference, preferences, prompt_row, prompts

STRANGE = "A zebra 🦓 stands, größer than\t<unk> ok."


def counts(data) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {kind: (one.unknown, one.tokens, dict(one.words)) for kind, one in data.report.unknown.items()}


def dialogue(answer: str) -> dict:
    """7 tokens and those of the answer: <s> USER: <image> what ? ASSISTANT: … </s>."""
    return {"image": "a.png", "conversations": [human("what ?"), gpt(answer)]}


def test_nothing_is_said_where_every_word_is_known(write, common):
    data = preferences(write("p.json", [preference()]), common, prompt=FACTS)
    # twice <s> USER: <image> what ? ASSISTANT: and 3 of the answer; "a cat", "a dog"
    assert counts(data) == {"conversations": (0, 18, {}), "captions": (0, 4, {})}
    assert "vocabulary" not in format_report(data.report)
    assert vocabulary_warnings(data.report) == []


def test_unknown_words_of_pairs_and_captions_are_counted(write, common):
    rows = [
        preference(outputs=("a zebra", "a dog"), captions=["a zebra and a horse", "red"], image=[]),
        preference(question="what zebra ?"),
    ]
    data = preferences(write("p.json", rows), common, prompt=FACTS)
    assert counts(data) == {
        "conversations": (3, 16 + 20, {"zebra": 2}),  # the question stands in both dialogues of its pair
        "captions": (2, 6 + 4, {"zebra": 1, "horse": 1}),
    }
    assert [
        warning.partition(": ")[2].partition(". The")[0] for warning in vocabulary_warnings(data.report)
    ] == [
        "8.3 % of the tokens of conversations are <unk> (3 of 36): 'zebra'",
        "20 % of the tokens of captions are <unk> (2 of 10): 'zebra', 'horse'",
    ]
    assert "vocabulary" not in format_report(data.report)  # it is said once


def test_prompts_and_dialogues_are_counted(write, common, caplog):
    # <s> USER: <image> what red zebra ? ASSISTANT: = 8
    data = prompts(write("q.json", [prompt_row(question="what red zebra ?")]), common)
    assert counts(data)["conversations"] == (1, 8, {"zebra": 1})
    data = build_dialogues(write("d.json", [dialogue("a blue , blue , blue dog")]), common)
    assert counts(data) == {"conversations": (2, 7 + 7, {",": 2})}
    with caplog.at_level(logging.WARNING):
        announce(data.report, main_process=True)
    assert "14 % of the tokens of conversations are <unk> (2 of 14): ','. The vocabulary" in caplog.text


def test_a_few_unknown_words_get_a_line_and_no_warning(write, common):
    known = " ".join(["a cat and a dog"] * 10)
    rows = write("d.json", [dialogue(f"{known} zebra")])
    data = build_dialogues(rows, replace(common, response_len=100))
    line = "1.7 % of the tokens of conversations are <unk> (1 of 58): 'zebra'"
    assert f"  vocabulary: {line}" in format_report(data.report).splitlines()
    assert vocabulary_warnings(data.report) == []


def test_only_the_most_frequent_words_are_shown(write, common):
    words = " ".join(f"w{n}" for n in range(20) for _ in range(1 + (n == 13)))
    data = build_dialogues(write("d.json", [dialogue(words)]), replace(common, response_len=100))
    (warning,) = vocabulary_warnings(data.report)
    assert ": 'w13', 'w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6', …. The vocabulary" in warning


def test_facts_that_are_not_read_are_not_counted(write, common):
    assert set(counts(preferences(write("p.json", [preference()]), common))) == {"conversations"}


def byte_fallback(tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer like Llama's, with `tokens` of the 256 bytes."""
    pieces = ["<unk>", "<s>", "</s>", "<image>", *(f"<0x{n:02X}>" for n in range(tokens)), "▁", "a"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.ByteFallback()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer like GPT-2's, whose one control token is also the unknown one."""
    one = "<|endoftext|>"
    pieces = [one, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=one, bos_token=one, eos_token=one)


@pytest.mark.parametrize("tokenizer", [byte_fallback(256), byte_level()], ids=["fallback", "byte level"])
def test_a_tokenizer_that_writes_bytes_lacks_nothing(tokenizer):
    encoder = SegmentEncoder(tokenizer, 3)
    assert not encoder.lacks_words
    assert tokenizer.unk_token_id not in encoder.encode_response(STRANGE)


def test_one_that_lacks_some_bytes_lacks_what_they_write():
    encoder = SegmentEncoder(byte_fallback(128), 3)
    assert encoder.lacks_words
    assert encoder.count_unknown(encoder.encode_response("a ö a ß")) == 2
    assert encoder.unknown_words("a ö a ß") == ["ö", "ß"]
