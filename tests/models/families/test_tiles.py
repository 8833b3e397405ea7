"""What only families with tiled pictures can get wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.families.registry import FAMILIES, family_of
from models.families.tiles import TiledFamily
from models.vision_fingerprint import vision_fingerprint
from models.vlm import load_image_processor
from tests.models.families.worlds import SIZES, World
from tests.support.tiny_families import TINY_FAMILIES
from tests.support.tiny_families.common import picture

TILED = [tiny for tiny in TINY_FAMILIES if issubclass(FAMILIES[tiny.model_type], TiledFamily)]
pytestmark = pytest.mark.parametrize("world", TILED, indirect=True, ids=lambda tiny: tiny.model_type)


@pytest.fixture
def tiled(world: World) -> TiledFamily:
    return family_of(world.vlm.model.config)


def test_the_end_of_a_row_of_features_is_part_of_them(world, tmp_path):
    base: Path = shutil.copytree(world.base, tmp_path / "changed")
    state = load_file(base / "model.safetensors")
    state["image_newline"] = state["image_newline"] + 1
    save_file(state, base / "model.safetensors", {"format": "pt"})
    assert vision_fingerprint(base)["weights"] != vision_fingerprint(world.base)["weights"]


def test_pictures_of_one_call_are_those_of_calls_of_their_own(world, tiled):
    """The processor pads the second with tiles that nobody may read."""
    images = [picture(*size, seed=number) for number, size in enumerate(SIZES)]
    tensors = load_image_processor(world.base)(images=images, return_tensors="pt")
    pixels, grids = tiled.cut(tensors)
    assert torch.equal(pixels, torch.cat(world.pixels)) and list(grids) == world.grids
    assert len(pixels) == sum(grid[0] for grid in grids) < tensors["pixel_values"].flatten(0, 1).shape[0]
    assert len({grid[0] for grid in grids}) > 1


def test_a_blank_picture_can_be_encoded(world, tiled):
    (features,) = world.vlm.encode_pictures(*tiled.blank())
    assert len(features) == len(tiled.placeholder(tiled.blank()[1][0]))
