"""Ids, pixels and lengths of rows are those of transformers' own processors, which the project does without.

Some of those classes want a video processor, which wants torchvision: here they are made without one.
"""

from __future__ import annotations

import random

import pytest
import torch
from transformers import ProcessorMixin

from models.families.registry import family_of
from models.vlm import load_image_processor, load_tokenizer
from tests.models.families.worlds import SIZES, World
from tests.support.tiny_families.common import picture

FAR = ((7, 300), (300, 7), (1, 1), (28, 28), (29, 28), (640, 480), (57, 56), (1000, 999))


@pytest.fixture
def theirs(world: World) -> ProcessorMixin:
    if world.family.processor is None:
        pytest.skip("transformers' processor of this family can't be built here")
    return world.family.processor(world.base)


@pytest.mark.parametrize("pictures", [0, 1, 2, 3])
def test_ids_and_pixels_are_those_of_the_real_processor(world, theirs, pictures):
    written, tokenizer = world.family.written, load_tokenizer(world.base)
    family, processor = family_of(world.vlm.model.config), load_image_processor(world.base)
    images = [picture(*size, seed=number) for number, size in enumerate(SIZES[:pictures])]
    parts = ["what is this? ", "\nand this? ", " the red one", "\n\n left of it "][: pictures + 1]
    expected = theirs(text=[written.join(parts)], images=[images] if images else None, return_tensors="pt")
    beside = family.beside_pictures  # which may make one token with the text around it
    said = [f"{beside * (n > 0)}{part}{beside * (n < pictures)}" for n, part in enumerate(parts)]
    ids = tokenizer(said[0])["input_ids"]
    pixels, grids = family.cut(processor(images=images, return_tensors="pt")) if images else (None, ())
    for part, grid in zip(said[1:], grids or [()] * pictures, strict=True):
        ids += [*family.placeholder(grid), *tokenizer(part, add_special_tokens=False)["input_ids"]]
    if pictures > 1 and not family.several_pictures:
        assert ids != expected["input_ids"][0].tolist()  # why rows of several are refused
        return
    assert ids == expected["input_ids"][0].tolist()
    if images:
        assert torch.equal(pixels, family.pixel_rows(expected))


def test_positions_are_known_from_the_size_alone(world, theirs):
    """Of pictures of any shape: as many as the image processor makes, and the real processor writes."""
    family, processor = family_of(world.vlm.model.config), load_image_processor(world.base)
    drawn, seen = random.Random(0), set()
    sizes = [*FAR, *((drawn.randint(5, 200), drawn.randint(5, 200)) for _ in range(60))]
    for size in sizes:
        image = picture(*size, seed=0)
        _, grids = family.cut(processor(images=[image], return_tensors="pt"))
        grid = grids[0] if grids else ()
        placeholder = list(family.placeholder(grid))
        assert family.positions(processor, size) == len(placeholder), size
        ids = theirs(text=[world.family.written], images=[[image]], return_tensors="pt")["input_ids"][0]
        assert int((ids == family.image_token_id).sum()) == placeholder.count(family.image_token_id), size
        seen.add(len(placeholder))
    assert (len(seen) == 1) == world.family.alike and (world.family.alike or len(seen) > 3)
