"""What Gemma 3 would get wrong without an error: windows while decoding, and pictures whose positions see each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.decoding_cache import DecodingCache
from models.families.base import Family
from models.families.gemma3 import Gemma3
from models.vlm import BaseSettings, load_base
from tests.models.families.worlds import World, make_world
from tests.support.tiny_families import TINY_FAMILIES

ALL, CLOSE, STEPS = [0, 1, 2], 1e-5, 14
WRONG = 0.1  # what a wrong mask moves hidden states by at least, which are of size 3


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> World:
    (family,) = (family for family in TINY_FAMILIES if family.model_type == "gemma3")
    return make_world(family, tmp_path_factory.mktemp("gemma"))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def decoded(world: World, tokens: Tensor, attention: str = "sdpa") -> tuple[Tensor, Tensor]:
    """Hidden states float[B, T, D] of tokens int64[B, T] behind the prompts, one at a time, and those of whole rows."""
    vlm = load_base(world.base, BaseSettings(attn_implementation=attention))
    (ids, mask), cache, states = world.batch("left"), DecodingCache(), []
    _, positions = vlm.read_prompts(ids, mask, world.features(ALL, vlm), cache)
    for number, token in enumerate(tokens.unbind(dim=1)):
        mask = torch.nn.functional.pad(mask, (0, 1), value=True)
        states.append(vlm.decode(token, mask, positions + number, cache))
    whole = vlm(torch.cat([ids, tokens], dim=1), mask, world.features(ALL, vlm))
    return torch.stack(states, dim=1), whole[:, -tokens.shape[1] :]


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(20, 400, (3, STEPS), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoding_keeps_the_window(gemma, tokens, attention):
    assert gemma.vlm.model.config.get_text_config().sliding_window < gemma.batch("left")[0].shape[1]
    steps, whole = decoded(gemma, tokens, attention)
    torch.testing.assert_close(steps, whole, rtol=0, atol=CLOSE)


def test_a_mask_of_one_kind_would_lose_the_window(gemma, tokens, monkeypatch):
    monkeypatch.setattr(Gemma3, "decode_mask", Family.decode_mask)
    steps, whole = decoded(gemma, tokens)
    assert ((steps - whole).abs().amax(dim=(1, 2)) > WRONG).all()


@pytest.mark.parametrize("padding", ["left", "right", "right, no mask"])
def test_pictures_would_be_read_in_order_without_masks_of_our_own(gemma, monkeypatch, padding):
    """Also where causal attention needs no mask: a picture's positions see those behind them."""
    ids, mask = gemma.batch(padding.split(",")[0])
    given = None if "no mask" in padding else mask
    right = gemma.vlm(ids, given, gemma.features(ALL))
    monkeypatch.setattr(Gemma3, "attention_mask", Family.attention_mask)
    wrong = gemma.vlm(ids, given, gemma.features(ALL))
    off = [float((right[row] - wrong[row])[mask[row]].abs().max()) for row in ALL]
    assert off[0] <= CLOSE and min(off[1:]) > WRONG


def test_the_model_itself_must_be_told_which_positions_are_pictures(gemma):
    """The oracle of the other tests is asked with them; without, it computes something else and says nothing."""
    ids = torch.tensor([gemma.rows[1]])
    asked = gemma.native(ids, [1])
    told = gemma.vlm.model.model(input_ids=ids, **asked).last_hidden_state
    untold = gemma.vlm.model.model(input_ids=ids, pixel_values=asked["pixel_values"]).last_hidden_state
    assert float((told - untold).abs().max()) > WRONG


def test_two_pictures_side_by_side_see_themselves_only(gemma):
    """Between their positions stand marks, by which the model tells them apart."""
    first, second = (list(gemma.vlm.family.placeholder(grid)) for grid in gemma.grids[1:])
    ids = torch.tensor([[30, *first, *second, 31]])
    hidden = gemma.vlm(ids, torch.ones_like(ids, dtype=torch.bool), gemma.features([2]))
    native = gemma.vlm.model.model(input_ids=ids, **gemma.native(ids, [2])).last_hidden_state
    torch.testing.assert_close(hidden, native, rtol=0, atol=CLOSE)


def test_attention_that_can_not_show_pictures_whole_is_refused(gemma):
    with pytest.raises(ValueError, match=r"flash_attention_2.*Gemma 3.*sdpa or eager"):
        load_base(gemma.base, BaseSettings(attn_implementation="flash_attention_2"))


def test_embeddings_without_a_token_and_marks_are_never_answered(gemma):
    family = gemma.vlm.family
    assert gemma.vlm.vocab_size == 414 + 7
    marks = {family.placeholder((1,))[0], family.placeholder((1,))[-1], family.image_token_id}
    assert set(family.banned_ids) == marks and len(marks) == 3
