"""How pictures are cut up and written where a base is planned: by its image processor, and by its tokenizer if that knows."""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from data_utils.image_choices import ImageChoices
from data_utils.images import MAX_SIDE
from llava_rlhf.assembly.image_choices import fit_processor
from llava_rlhf.memory_planning.published import MARKS
from models.families.base import Family, Grid
from models.families.registry import FAMILIES, family_of
from models.image_settings import PROCESSOR_FILE

MUCH_MORE = 1.25  # times the positions that were asked for
SHAPES = [(width, height) for width in range(1, 7) for height in range(1, 7) if width != height]


class CutPicture(NamedTuple):
    """A picture as a tower takes it.

    Attributes:
        pixels: shape of its rows.
        grid: how its family cuts it up.
        positions: places that it takes in the language model, marks included.
        features: how many it has.
    """

    pixels: torch.Size
    grid: Grid
    positions: int
    features: int


def configuration_of(text: str) -> PreTrainedConfig:
    """What a `config.json` says, as an object."""
    fields = json.loads(text)
    return FAMILIES[fields["model_type"]].model_class().config_class.from_dict(fields)


@lru_cache(maxsize=64)
def planned_family(config: str) -> Family:
    """What a base is one of; a published one reads what is written for a picture with a tokenizer of these marks alone."""
    found = family_of(configuration_of(config))
    marks = () if found.config.name_or_path else MARKS.get(found.model_type, ())
    if marks:
        with tempfile.TemporaryDirectory() as folder:
            _save_marks(Path(folder), marks, found.image_token_id)
            found.config.name_or_path = folder
            found.written("")  # which reads the file as long as it is there
    return found


def _save_marks(folder: Path, marks: Sequence[str], first: int) -> None:
    """A tokenizer that reads nothing but these, the first under this id."""
    ids = {mark: first + number for number, mark in enumerate(marks)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=marks[0]))
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))


@lru_cache(maxsize=64)
def cut_picture(config: str, processor: str, size: tuple[int, int]) -> CutPicture:
    """A picture of this width and height; without a size of its own where all are alike."""
    family = planned_family(config)
    if family.fixed_positions is not None:
        pixels, (grid,) = family.blank()
    else:
        cuts = _image_processor(family, processor)
        pixels, (grid,) = family.cut(cuts(images=[Image.new("RGB", size)], return_tensors="pt"))
    written = family.placeholder(grid)
    return CutPicture(pixels.shape, grid, len(written), written.count(family.image_token_id))


@lru_cache(maxsize=64)
def picture_of(config: str, processor: str, positions: int) -> tuple[int, int]:
    """Width and height of the smallest square that takes so many.

    Where it takes far more, or none takes so many, as of some tiles: of that and of other shapes what takes fewest.
    """
    family = planned_family(config)
    cuts = _image_processor(family, processor)

    def taken(size: tuple[int, int]) -> int:
        return family.positions(cuts, size)

    def smallest(width: int, height: int) -> tuple[int, int]:
        sizes = range(1, MAX_SIDE // max(width, height) + 1)
        scale = bisect_left(sizes, positions, key=lambda scale: taken((scale * width, scale * height))) + 1
        return scale * width, scale * height

    square = smallest(1, 1)
    if positions <= taken(square) <= MUCH_MORE * positions:
        return square
    found = [size for size in (square, *(smallest(*shape) for shape in SHAPES)) if taken(size) >= positions]
    return min(found, key=taken, default=square)


def within_limits(config: str, processor: str, choices: ImageChoices, base: str) -> str:
    """The settings of an image processor with the limits that are chosen.

    Raises ValueError for what the family of `base` does not leave to choose.
    """
    family = planned_family(config)
    cuts = _image_processor(family, processor)
    fit_processor(cuts, choices, base, family)
    return cuts.to_json_string()


def _image_processor(family: Family, settings: str) -> BaseImageProcessor:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, PROCESSOR_FILE).write_text(settings, encoding="utf-8")
        return family.load_image_processor(folder)
