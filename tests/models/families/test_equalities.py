"""Every family computes what its own classes compute, whatever the rows, the padding and the neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.generation import SamplingSettings, sample
from tests.models.families.worlds import PAD, World

CLOSE = 1e-5
ALL = [0, 1, 2]
NEW = 14


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def theirs(world: World, row: int) -> Tensor:
    """Hidden states of a row alone, by the model's own forward with pixels."""
    model, ids = world.vlm.model.model, torch.tensor([world.rows[row]])
    model.rope_deltas = None  # some keep the state of an earlier call
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **world.native(ids, [row]))
    return output.last_hidden_state[0]


def test_pictures_alone_are_those_in_a_batch(world):
    together = world.features(ALL).split()
    for image, features in enumerate(together):
        alone = world.vlm.encode_pictures(world.pixels[image], [world.grids[image]])
        # Not to the bit on every processor: a product of more rows may be cut in another way.
        torch.testing.assert_close(alone[0], features, rtol=0, atol=CLOSE)
        assert len(features) == list(world.vlm.family.placeholder(world.grids[image])).count(
            world.vlm.image_token_id
        )


@pytest.mark.parametrize("padding", ["left", "right", "right, no mask"])
def test_features_and_embeddings_are_the_models_own_forward(world, padding):
    ids, mask = world.batch(padding.split(",")[0])
    hidden = world.vlm(ids, None if "no mask" in padding else mask, world.features(ALL))
    for row in ALL:
        torch.testing.assert_close(hidden[row][mask[row]], theirs(world, row), rtol=0, atol=CLOSE)


def test_a_row_is_what_it_is_alone(world):
    ids, mask = world.batch("left")
    hidden = world.vlm(ids, mask, world.features(ALL))
    for row in ALL:
        alone = torch.tensor([world.rows[row]])
        found = world.vlm(alone, torch.ones_like(alone, dtype=torch.bool), world.features([row]))
        torch.testing.assert_close(hidden[row][mask[row]], found[0], rtol=0, atol=CLOSE)


def test_a_batch_of_text_alone(world):
    ids = torch.tensor([world.rows[0]] * 2)
    mask = torch.ones_like(ids, dtype=torch.bool)
    hidden = world.vlm(ids, mask, None)
    torch.testing.assert_close(hidden[1], theirs(world, 0), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("stops", [False, True])
def test_greedy_answers_are_those_of_generate(world, stops):
    """Also where the longest row leaves first, and with it the padding that only it gave the others."""
    ids, mask = world.batch("left")
    expected = world.vlm.model.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        **world.native(ids, ALL),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=None,
        pad_token_id=PAD,
    )[:, ids.shape[1] :]
    stop_ids = (int(expected[2, 3]),) if stops else ()
    settings = SamplingSettings(NEW, stop_ids, PAD, temperature=0.0)
    found = sample(world.vlm, ids, mask, world.features(ALL), settings)
    lengths = found.mask.sum(dim=1).tolist()
    assert lengths[2] <= 4 < max(lengths) if stops else lengths == [NEW] * 3
    assert len(set(expected.flatten().tolist())) > 5
    for row in ALL:
        assert found.ids[row][found.mask[row]].tolist() == expected[row, : lengths[row]].tolist()


def test_the_position_of_the_first_token_is_carried_from_the_prompt(world):
    from models.decoding_cache import DecodingCache

    ids, mask = world.batch("left")
    _, following = world.vlm.read_prompts(ids, mask, world.features(ALL), DecodingCache())
    tokens = mask.sum(dim=1, keepdim=True)
    if world.vlm.family.place(world.grids[0]) is not None:
        assert int(following[0]) == int(tokens[0]) and bool((following[1:] < tokens[1:]).all())
    else:
        assert torch.equal(following, tokens)


def test_a_planned_pass_leaves_nothing_behind(world):
    """Where pictures lie is worked out anew: the planner traces passes in the process that trains."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    family = world.vlm.family
    with FakeTensorMode():
        family.place(world.grids[0])
    place = family.place(world.grids[0])
    assert place is None or not isinstance(place.relative, FakeTensor)
