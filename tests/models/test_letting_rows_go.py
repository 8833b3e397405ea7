"""Rows that have stopped leave the batch: the answers stay what they are, and nothing is computed for them."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

from models.decoding_cache import GROWTH, DecodingCache
from models.generation import SamplingSettings, sample
from models.vlm import BaseSettings, VisionLanguageModel, load_base
from tests.models.tiny_rows import (
    MIXED,
    PIXELS,
    SHARED_IMAGE,
    TEXT,
    TWO_IMAGES,
    greedy_answers,
    make_row,
    pad,
)
from tests.support.tiers import tiered
from tests.support.tiny_models import IMAGE, PAD

NEW_TOKENS = 24
STOPS = (20, 30, 40, 50, 60, 70)  # of 86 tokens: answers of about 14
ROWS = (*MIXED, make_row(2, seed=8), make_row(6, images=(1,), seed=9), *MIXED[::-1])
NEVER = 10**6  # tokens between looks: rows that have stopped stay to the end


@pytest.fixture(scope="module")
def vlm(tiny_base):
    return load_base(tiny_base, BaseSettings())


def settings(temperature=1.0, **changes):
    fields = {"max_new_tokens": NEW_TOKENS, "stop_ids": STOPS, "pad_id": PAD, "banned_ids": (IMAGE,)}
    return SamplingSettings(**{**fields, "temperature": temperature, **changes})


def draw(rows, seed=0, columns=NEW_TOKENS):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


def answer(vlm, rows, chosen, uniforms, between_looks=None, extra=0):
    batch = pad(rows, extra=extra)
    features = vlm.encode_images(PIXELS, batch.image_index)
    return sample(vlm, batch.input_ids, batch.mask, features, chosen, uniforms, between_looks)


def said(found):
    """Each row's tokens; what follows must be padding."""
    assert (found.ids[~found.mask] == PAD).all()
    assert found.mask.any(dim=0).all(), "a column that no row needs"
    return [row[real].tolist() for row, real in zip(found.ids, found.mask, strict=True)]


def written_out(vlm, row, chosen, numbers):
    """One row's answer without cache, batch or padding, in double precision from the logits on."""
    ids = list(row.ids)
    features = vlm.encode_images(PIXELS, torch.tensor(row.images, dtype=torch.long))
    for number in numbers.tolist():
        with torch.no_grad():
            hidden = vlm(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), features)
            logits = vlm.project(hidden[0, -1]).double()
        logits[list(chosen.banned_ids)] = -torch.inf
        if chosen.temperature == 0:
            ids.append(int(logits.argmax()))
        else:
            reached = torch.softmax(logits / chosen.temperature, dim=0).cumsum(dim=0)
            ids.append(int((reached <= number).sum()))
        if ids[-1] in chosen.stop_ids:
            break
    return ids[len(row.ids) :]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", tiered(range(4), quick=[0], daily=[1]))
def test_answers_do_not_depend_on_who_leaves_when(vlm, temperature, seed):
    order = torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(seed)).tolist()
    rows, uniforms, chosen = tuple(ROWS[i] for i in order), draw(len(ROWS), seed), settings(temperature)
    if temperature == 0:  # the most likely words hold none of the usual stop tokens
        free = answer(vlm, rows, settings(0.0, stop_ids=(-1,)), None).ids
        chosen = settings(0.0, stop_ids=tuple(int(free[i, 2 * i + 1]) for i in range(0, len(rows), 4)))
    at_once = answer(vlm, rows, chosen, uniforms)
    expected = [written_out(vlm, *one) for one in zip(rows, [chosen] * len(rows), uniforms, strict=True)]
    assert said(at_once) == expected
    lengths = {len(words) for words in expected}
    assert len(lengths) > 2 and min(lengths) < NEW_TOKENS
    for between_looks in (1, 2, 5, NEVER):
        other = answer(vlm, rows, chosen, uniforms, between_looks, extra=seed)
        assert torch.equal(other.ids, at_once.ids) and torch.equal(other.mask, at_once.mask)
    for index, row in enumerate(rows):
        alone = answer(vlm, (row,), chosen, uniforms[index : index + 1], between_looks=3)
        assert said(alone) == [expected[index]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_way_of_attention_leaves_padding_out(tiny_base, vlm, attention):
    other = load_base(tiny_base, BaseSettings(attn_implementation=attention))
    uniforms = draw(len(ROWS), seed=5)
    for between_looks in (1, 4):
        found = answer(other, ROWS, settings(), uniforms, between_looks)
        expected = [written_out(vlm, row, settings(), uniforms[i]) for i, row in enumerate(ROWS)]
        assert said(found) == expected


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_computed_for_rows_that_have_stopped(vlm, monkeypatch, seed):
    """Of the shape of the batch: one row a token that is still to come; columns from the first that a row needs."""
    rows, uniforms = (make_row(16, seed=13), TWO_IMAGES, TEXT, SHARED_IMAGE), draw(4, seed)
    seen = []
    decode = VisionLanguageModel.decode

    def watched(self, token, mask, position_ids, cache):
        seen.append((len(token), mask, cache.get_seq_length() + 1, position_ids.flatten().tolist()))
        return decode(self, token, mask, position_ids, cache)

    monkeypatch.setattr(VisionLanguageModel, "decode", watched)
    lengths = [len(words) for words in said(answer(vlm, rows, settings(), uniforms))]
    prompts = [len(row.ids) for row in rows]
    assert len(set(lengths)) > 2 and len(set(prompts)) > 2
    assert sum(count for count, *_ in seen) == sum(lengths) - len(lengths)
    for column, (count, mask, width, positions) in enumerate(seen, start=1):
        answering = [i for i, length in enumerate(lengths) if length > column]
        longest = max(prompts[i] for i in answering)
        assert (count, width) == (len(answering), longest + column)
        assert sorted(positions) == sorted(prompts[i] + column - 1 for i in answering)
        assert (mask is None) == all(prompts[i] == longest for i in answering)
        assert mask is None or mask.shape == (count, width)
    assert any(width - column < max(prompts) for column, (_, _, width, _) in enumerate(seen, start=1))


def test_looking_less_often_costs_no_more_than_that(vlm, monkeypatch):
    rows, uniforms = ROWS, draw(len(ROWS), seed=3)
    counts = []
    decode = VisionLanguageModel.decode

    def watched(self, token, *rest):
        counts.append(len(token))
        return decode(self, token, *rest)

    monkeypatch.setattr(VisionLanguageModel, "decode", watched)
    lengths = [len(words) for words in said(answer(vlm, rows, settings(), uniforms, between_looks=4))]
    # A row goes at the next look; whoever reaches the limit is through without one.
    stays = [min(-(-length // 4) * 4, NEW_TOKENS) for length in lengths]
    assert sum(counts) == sum(stay - 1 for stay in stays)


def test_a_stop_token_that_is_also_the_padding(vlm):
    chosen, uniforms = settings(pad_id=STOPS[0]), draw(len(ROWS), seed=4)
    found = answer(vlm, ROWS, chosen, uniforms)
    expected = [written_out(vlm, row, chosen, uniforms[i]) for i, row in enumerate(ROWS)]
    assert any(words[-1] == STOPS[0] for words in expected)
    assert [row[real].tolist() for row, real in zip(found.ids, found.mask, strict=True)] == expected
    assert (found.ids[~found.mask] == STOPS[0]).all()


def test_answers_longer_than_the_room_that_is_added_at_once(tiny_base, vlm):
    """Greedy, against Hugging Face: the cache has to be enlarged, with rows and columns gone before."""
    new_tokens = 2 * GROWTH + 9
    rows = (*MIXED, make_row(20, images=(0,), seed=12))
    batch = pad(rows)
    free = answer(vlm, rows, settings(0.0, max_new_tokens=new_tokens, stop_ids=(-1,), banned_ids=()), None)
    stop = next(
        token
        for token in range(vlm.vocab_size)
        if len({r.index(token) for r in free.ids.tolist() if token in r}) > 1
        and any(token not in r for r in free.ids.tolist())
    )
    chosen = settings(0.0, max_new_tokens=new_tokens, stop_ids=(stop,), banned_ids=())
    model = LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()
    theirs = greedy_answers(model, batch, max_new_tokens=new_tokens, eos_token_id=stop)
    found = answer(vlm, rows, chosen, None)
    assert found.ids.shape[1] == new_tokens and not found.mask.all()
    assert torch.equal(found.ids, theirs)


# --- the cache


def test_the_cache_holds_what_a_dynamic_cache_holds():
    """Random steps of growing, letting rows go and leaving columns out, against plain indexing."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ours, theirs = DecodingCache(), DynamicCache()
        rows, first = 9, 0
        for step in range(3 * GROWTH):
            new = [torch.randn(rows, 2, 7 if step == 0 else 1, 4, generator=generator) for _ in range(4)]
            for layer in (0, 1):
                found = ours.update(*new[2 * layer : 2 * layer + 2], layer)
                expected = theirs.update(*new[2 * layer : 2 * layer + 2], layer)
                for one, other in zip(found, expected, strict=True):
                    assert torch.equal(one, other[:, :, first:])
            assert ours.get_seq_length() == theirs.get_seq_length() - first
            if rows > 1 and torch.rand((), generator=generator) < 0.05:
                gone = int(torch.randint(rows, (), generator=generator))
                kept = torch.arange(rows - 1)
                kept[kept == gone] = rows - 1  # the last row moves to the free place
                dropped = int(torch.randint(2, (), generator=generator))
                ours.keep(kept, dropped)
                theirs.batch_select_indices(kept)
                rows, first = rows - 1, first + dropped
        assert rows < 9 and first > 0
