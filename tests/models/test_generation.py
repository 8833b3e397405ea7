"""Sampling against Hugging Face's `generate` and against the probabilities of the model itself."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from models.adapters import AdapterBank, AdapterSpec
from models.generation import SamplingSettings, _invert_cdf, sample
from models.roles import Policy
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import randomise
from tests.models.tiny_rows import IMAGE_ROW, MIXED, PIXELS, TEXT, TWO_IMAGES, greedy_answers, pad
from tests.support.tiny_models import PAD

NEW_TOKENS = 12
BATCH = pad(MIXED)
NEVER = (-1,)  # an id that no token has: answers end at the limit


def settings(**changes):
    fields = {"max_new_tokens": NEW_TOKENS, "stop_ids": NEVER, "pad_id": PAD, "temperature": 0.0}
    return SamplingSettings(**{**fields, **changes})


def draw(rows, new_tokens=NEW_TOKENS, seed=0):
    return torch.rand(rows, new_tokens, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vlm(tiny_base):
    return load_base(tiny_base, BaseSettings())


def answer(vlm, batch, chosen, uniforms=None):
    return sample(
        vlm, batch.input_ids, batch.mask, vlm.encode_images(PIXELS, batch.image_index), chosen, uniforms
    )


def generate(model, batch, **options):
    return greedy_answers(model, batch, max_new_tokens=NEW_TOKENS, **options)


def next_logits(vlm, batch):
    with torch.no_grad():
        return vlm.project(
            vlm(batch.input_ids, batch.mask, vlm.encode_images(PIXELS, batch.image_index))[:, -1]
        )


# --- greedy


def test_greedy_equals_hugging_face(vlm, tiny_base):
    model = LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()
    theirs = generate(model, BATCH, eos_token_id=None)
    ours = answer(vlm, BATCH, settings())
    assert len({tuple(row) for row in theirs.tolist()}) == len(MIXED)
    assert torch.equal(ours.ids, theirs)
    assert ours.mask.all()


def test_a_stop_token_is_kept_and_padding_follows(vlm, tiny_base):
    free = answer(vlm, BATCH, settings()).ids
    stops = (int(free[0, 3]), int(free[2, 6]))
    found = answer(vlm, BATCH, settings(stop_ids=stops))
    lengths = []
    for index, row in enumerate(free.tolist()):
        end = next((i for i, token in enumerate(row) if token in stops), NEW_TOKENS - 1) + 1
        lengths.append(end)
        padding = found.ids.shape[1] - end
        assert found.ids[index].tolist() == row[:end] + [PAD] * padding
        assert found.mask[index].tolist() == [True] * end + [False] * padding
    assert min(lengths) < max(lengths) == found.ids.shape[1]
    model = LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()
    assert torch.equal(found.ids, generate(model, BATCH, eos_token_id=list(stops)))


def test_sampling_ends_with_the_last_row(vlm):
    first = answer(vlm, BATCH, settings(max_new_tokens=1)).ids
    found = answer(vlm, BATCH, settings(stop_ids=tuple(first[:, 0].tolist())))
    assert torch.equal(found.ids, first)
    assert found.mask.all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_tokens_never_appear(vlm, temperature):
    free = answer(vlm, BATCH, settings()).ids
    banned = tuple(set(free.flatten().tolist()))  # everything that greedy decoding would say
    assert set(next_logits(vlm, BATCH).argmax(dim=-1).tolist()) <= set(banned)
    rows = [BATCH, pad(MIXED * 40)][temperature > 0]
    chosen = settings(banned_ids=banned, temperature=temperature)
    found = answer(vlm, rows, chosen, draw(len(rows.mask)))
    assert not set(found.ids.flatten().tolist()) & set(banned)
    if temperature == 0:
        logits = next_logits(vlm, BATCH)
        second_best = [max(set(range(86)) - set(banned), key=row.__getitem__) for row in logits.tolist()]
        assert found.ids[:, 0].tolist() == second_best


@pytest.mark.parametrize("largest", [1 - 2.0**-24, 1.0], ids=["below 1", "rounded to 1"])
def test_the_largest_uniform_number_draws_no_banned_token(largest):
    """The last tokens of the vocabulary are banned: rounding must not push a draw onto them."""
    logits = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0))
    logits[:, -3:] = float("-inf")
    totals = torch.softmax(logits, dim=-1).cumsum(dim=-1)[:, -1]
    assert (totals > 1).any()
    assert (totals < 1).any()
    tokens = _invert_cdf(logits, torch.full((2000,), largest))
    assert set(tokens.tolist()) == {46}
    assert _invert_cdf(logits, torch.zeros(2000)).max() == 0


def test_prefix_sums_out_of_order_draw_no_banned_token(monkeypatch):
    """Tree-wise sums, as on a GPU, may give a banned token a width: here half of all prefixes are a last digit too big."""
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))
    logits[:, ::3] = float("-inf")
    exact = torch.Tensor.cumsum

    def jittered(self, dim):
        sums = exact(self, dim)
        sums[:, ::2] *= 1 + 2e-7
        return sums

    monkeypatch.setattr(torch.Tensor, "cumsum", jittered)
    prefixes = exact(torch.softmax(logits, dim=-1), dim=-1)
    for column in range(0, 48, 3):  # numbers that fall just on the edges of banned tokens
        tokens = _invert_cdf(logits, prefixes[:, column] * (1 + 1e-7))
        assert not (tokens % 3 == 0).any()


# --- drawing


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_come_with_their_probability(vlm, temperature):
    """With evenly spaced uniform numbers a token's share is off by at most one draw at either end."""
    draws = 1500
    spaced = ((torch.arange(draws) + 0.5) / draws).unsqueeze(1)
    row = pad((IMAGE_ROW,))
    many = row._replace(
        input_ids=row.input_ids.expand(draws, -1),
        mask=row.mask.expand(draws, -1),
        image_index=row.image_index.expand(draws),
    )
    found = answer(vlm, many, settings(max_new_tokens=1, temperature=temperature), spaced).ids[:, 0]
    shares = torch.bincount(found, minlength=vlm.vocab_size) / draws
    expected = torch.softmax(next_logits(vlm, row)[0] / temperature, dim=-1)
    assert expected.max() < 0.9
    assert_close(shares, expected, rtol=0, atol=1.001 / draws)


def test_pairs_of_tokens_come_with_their_joint_probability(vlm):
    """Random uniform numbers: chi-square over all pairs (first, second) that are expected often enough."""
    draws = 3000
    found = answer(
        vlm,
        pad((TEXT,) * draws),
        settings(max_new_tokens=2, temperature=0.3),
        draw(draws, new_tokens=2, seed=3),
    ).ids
    first = torch.softmax(next_logits(vlm, pad((TEXT,)))[0] / 0.3, dim=-1)
    longer = pad(tuple(TEXT._replace(ids=[*TEXT.ids, token]) for token in range(vlm.vocab_size)))
    # Image tokens can't be fed back without features; the row of that token is not read below.
    longer.input_ids[longer.input_ids == vlm.image_token_id] = PAD
    second = torch.softmax(next_logits(vlm, longer) / 0.3, dim=-1)
    expected = (first.unsqueeze(1) * second * draws).flatten()
    counts = torch.bincount(found[:, 0] * vlm.vocab_size + found[:, 1], minlength=vlm.vocab_size**2)
    often = expected >= 8
    often.view(vlm.vocab_size, -1)[vlm.image_token_id] = False
    bins = int(often.sum())
    assert bins > 30
    assert expected[often].sum() > 0.3 * draws
    chi_square = ((counts - expected).pow(2) / expected)[often].sum() / bins
    # Mean 1, standard deviation sqrt(2 / bins): four of them.
    assert abs(chi_square - 1) < 4 * (2 / bins) ** 0.5


def test_an_answer_does_not_depend_on_neighbours(vlm):
    uniforms = draw(len(MIXED), seed=1)
    together = answer(vlm, BATCH, settings(temperature=1.0, stop_ids=(20, 30, 40)), uniforms)
    assert not together.mask.all()
    for index, row in enumerate(MIXED):
        chosen = settings(temperature=1.0, stop_ids=(20, 30, 40))
        alone = answer(vlm, pad((row,), extra=index), chosen, uniforms[index : index + 1])
        length = alone.ids.shape[1]
        assert together.ids[index, :length].tolist() == alone.ids[0].tolist()
        assert together.mask[index].tolist() == [True] * length + [False] * (together.ids.shape[1] - length)


def test_other_uniform_numbers_give_other_answers(vlm):
    one = answer(vlm, BATCH, settings(temperature=1.0), draw(len(MIXED), seed=1)).ids
    two = answer(vlm, BATCH, settings(temperature=1.0), draw(len(MIXED), seed=2)).ids
    assert (one != two).any(dim=1).all()


# --- refusals


def test_missing_uniform_numbers_are_an_error(vlm):
    with pytest.raises(ValueError, match="uniform numbers"):
        answer(vlm, BATCH, settings(temperature=1.0))
    with pytest.raises(ValueError, match="uniform numbers"):
        answer(vlm, BATCH, settings(temperature=1.0), draw(len(MIXED), new_tokens=NEW_TOKENS - 1))


def test_right_padded_prompts_are_an_error(vlm):
    with pytest.raises(ValueError, match="left-padded"):
        answer(vlm, pad(MIXED, "right"), settings())


def test_a_model_in_train_mode_is_an_error(tiny_base):
    """With gradient checkpointing it would drop the cache and answer with wrong tokens."""
    bank = AdapterBank(
        load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(LoraSettings(r=4), True)}, True
    )
    with bank.use("policy", training=True) as vlm, pytest.raises(RuntimeError, match="eval mode"):
        answer(vlm, BATCH, settings())


# --- inside a bank


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_policy_answers_after_training_as_plain_peft_does(tiny_base, tmp_path, bits, checkpointing):
    lora = LoraSettings(r=4, alpha=8.0)
    specs = {"policy": AdapterSpec(lora, True), "value": AdapterSpec(lora, True)}
    bank = AdapterBank(load_base(tiny_base, BaseSettings(bits=bits)), specs, checkpointing)
    randomise(bank, "policy", "value")
    policy = Policy(bank, "policy")
    features = bank.vlm.encode_images(PIXELS, BATCH.image_index)
    policy.hidden_states(BATCH.input_ids, BATCH.mask, features, training=True).mean().backward()
    assert bank.vlm.model.training
    ours = policy.sample(BATCH.input_ids, BATCH.mask, features, settings()).ids
    bank.save("policy", tmp_path)
    base = load_base(tiny_base, BaseSettings(bits=bits)).model
    assert torch.equal(
        ours, generate(PeftModel.from_pretrained(base, tmp_path).eval(), BATCH, eos_token_id=None)
    )
    assert not torch.equal(ours, answer(load_base(tiny_base, BaseSettings(bits=bits)), BATCH, settings()).ids)


def test_log_probabilities_of_the_cache_equal_those_of_the_whole_sequence(vlm):
    """Greedy answers are the argmax at every position of one forward without a cache."""
    rows = (TEXT, TWO_IMAGES)
    batch = pad(rows)
    ids = answer(vlm, batch, settings()).ids
    whole = pad(tuple(row._replace(ids=row.ids + ids[i].tolist()) for i, row in enumerate(rows)))
    with torch.no_grad():
        hidden = vlm(whole.input_ids, whole.mask, vlm.encode_images(PIXELS, whole.image_index))
    assert torch.equal(vlm.project(hidden[:, -NEW_TOKENS - 1 : -1]).argmax(dim=-1), ids)
