"""A base of every family, and rows of text alone, of one picture and of two of other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from models.packed_features import PackedFeatures, pack
from models.vlm import BaseSettings, VisionLanguageModel, load_base, load_image_processor
from tests.support.tiny_families.common import TinyFamily, picture

SIZES = ((60, 60), (130, 70), (50, 160))
PAD = 0


@dataclass
class World:
    """One family.

    Attributes:
        family: how it is asked.
        base: its folder.
        rows: ids with placeholders, of three rows.
        pictures: for each row the indices of its pictures.
        pixels, grids: of each picture.
    """

    family: TinyFamily
    base: Path
    rows: list[list[int]]
    pictures: list[list[int]]
    pixels: list[Tensor]
    grids: list[tuple[int, ...]]

    def load(self, **settings: object) -> VisionLanguageModel:
        """A base of its own, to be changed."""
        return load_base(self.base, BaseSettings(**settings))

    @cached_property
    def vlm(self) -> VisionLanguageModel:
        """The base, to be left as it is."""
        return self.load()

    def features(self, rows: Sequence[int], vlm: VisionLanguageModel | None = None) -> PackedFeatures | None:
        """Of the pictures of some rows, each encoded once."""
        found = [image for row in rows for image in self.pictures[row]]
        if not found:
            return None
        vlm, grids = vlm or self.vlm, [self.grids[image] for image in found]
        return pack(vlm.encode_pictures(torch.cat([self.pixels[image] for image in found]), grids), grids)

    def native(self, ids: Tensor, rows: Sequence[int]) -> dict[str, Tensor]:
        """What transformers wants of the pictures of some rows."""
        found = [image for row in rows for image in self.pictures[row]]
        pixels = torch.cat([self.pixels[image] for image in found]) if found else None
        return self.family.native(ids, pixels, [self.grids[image] for image in found])

    def batch(self, side: str) -> tuple[Tensor, Tensor]:
        """All rows int64[3, L] and mask bool[3, L], padded on the `left` or the `right`."""
        longest = max(map(len, self.rows))
        ids, mask = torch.full((3, longest), PAD), torch.zeros(3, longest, dtype=torch.bool)
        for number, row in enumerate(self.rows):
            place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
            ids[number, place], mask[number, place] = torch.tensor(row), True
        return ids, mask


def make_world(family: TinyFamily, folder: Path) -> World:
    """Its base, three pictures of different sizes, and a row of text alone, of one picture and of two."""
    base = family.save(folder / family.model_type)
    vlm = load_base(base, BaseSettings())
    processor = load_image_processor(base)
    pixels, grids = [], []
    for number, size in enumerate(SIZES):
        tensors = processor(images=[picture(*size, seed=number)], return_tensors="pt")
        rows, cut = vlm.family.cut(tensors)
        pixels.append(rows)
        grids += cut or ((),)
    generator = torch.Generator().manual_seed(0)

    def text(length: int) -> list[int]:
        return torch.randint(20, vlm.vocab_size, (length,), generator=generator).tolist()

    marks = [list(vlm.family.placeholder(grid)) for grid in grids]
    rows = [text(9), [*text(3), *marks[0], *text(6)], [*text(1), *marks[1], *text(2), *marks[2], *text(4)]]
    return World(family, base, rows, [[], [0], [1, 2]], pixels, grids)
