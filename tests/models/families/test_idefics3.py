"""What only Idefics3 and SmolVLM2 can get wrong: tiles, their marks, and the mask of pixels that is not carried."""

from __future__ import annotations

import pytest
import torch
from transformers import Idefics3ImageProcessorPil, SmolVLMImageProcessorPil

from models.base_files import read_family
from models.families.idefics3 import Idefics3
from models.vlm import load_image_processor, load_tokenizer
from tests.models.families.worlds import SIZES, World
from tests.support.tiny_families.common import picture

FAR = ((1, 1), (7, 300), (300, 7), (56, 57), (640, 480), (1000, 999))
MARKS = 4 * 4


@pytest.fixture(autouse=True)
def family(world: World) -> Idefics3:
    found = read_family(world.base)
    if not isinstance(found, Idefics3):
        pytest.skip("its pictures have no tiles of the kind")
    return found


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("processor_class", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
def test_tiles_are_full_so_that_the_mask_of_pixels_says_nothing(world, splits, processor_class):
    processor = processor_class.from_pretrained(world.base, do_image_splitting=splits)
    side = read_family(world.base).config.vision_config.image_size
    for size in (*SIZES, *FAR):
        tensors = processor(images=[picture(*size, seed=0)], return_tensors="pt")
        assert bool((tensors["pixel_attention_mask"] == 1).all()), size
        assert tensors["pixel_values"].shape[-2:] == (side, side), size


def test_both_image_processors_make_the_same_pixels(world):
    image = picture(*SIZES[1], seed=0)
    found = [
        kind.from_pretrained(world.base)(images=[image], return_tensors="pt")["pixel_values"]
        for kind in (Idefics3ImageProcessorPil, SmolVLMImageProcessorPil)
    ]
    assert torch.equal(*found)


def test_pictures_that_are_not_cut_up_stand_as_a_whole(world, family):
    processor = load_image_processor(world.base)
    processor.do_image_splitting = False
    images = [picture(*size, seed=0) for size in SIZES]
    pixels, grids = family.cut(processor(images=images, return_tensors="pt"))
    assert len(pixels) == len(images) and set(grids) == {(1, 0, 0)}
    assert {family.positions(processor, size) for size in SIZES} == {len(family.placeholder(grids[0]))}


def test_a_tile_of_zeros_is_a_picture_too(world):
    """The model's own code takes it for padding, and leaves its features out."""
    pixels = torch.cat([world.pixels[0], torch.zeros_like(world.pixels[0][:1])])
    first, black = world.vlm.encode_pictures(pixels, [world.grids[0], (1, 0, 0)])
    assert torch.equal(first, world.features([1]).table) and len(black) == len(first) // len(pixels[:-1])


def test_a_blank_picture_can_be_encoded(world, family):
    (features,) = world.vlm.encode_pictures(*family.blank())
    assert len(features) == list(family.placeholder(family.blank()[1][0])).count(family.image_token_id)


def test_no_answer_holds_an_image_or_a_mark(world, family):
    tokens = set(load_tokenizer(world.base).convert_ids_to_tokens(list(family.banned_ids)))
    assert {"<image>", "<fake_token_around_image>", "<global-img>", "<row_4_col_1>"} < tokens
    assert len(tokens) == len(family.banned_ids) == 3 + MARKS
