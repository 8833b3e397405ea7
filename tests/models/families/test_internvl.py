"""What InternVL would get wrong without an error."""

from __future__ import annotations

import json

import pytest

from models.families.registry import family_of
from models.vlm import load_image_processor
from tests.models.families.worlds import World
from tests.support.tiny_families import TINY_FAMILIES
from tests.support.tiny_families.common import picture

INTERNVL = [tiny for tiny in TINY_FAMILIES if tiny.model_type == "internvl"]
pytestmark = pytest.mark.parametrize("world", INTERNVL, indirect=True, ids=["internvl"])


def test_pictures_are_cut_up_although_released_files_say_otherwise(world: World):
    settings = json.loads((world.base / "preprocessor_config.json").read_text())
    assert settings["crop_to_patches"] is False
    processor = load_image_processor(world.base)
    pixels, grids = family_of(world.vlm.model.config).cut(
        processor(images=[picture(130, 70, 0)], return_tensors="pt")
    )
    assert grids == ((3,),) and len(pixels) == 3  # two beside each other, and the whole


def test_marks_around_a_picture_are_never_answered(world: World):
    family = family_of(world.vlm.model.config)
    begin, *_, end = family.placeholder((1,))
    assert {begin, end, family.image_token_id} < set(family.banned_ids)
    assert begin != end and family.image_token_id not in (begin, end)
