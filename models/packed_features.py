"""Features of pictures that take different numbers of positions, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.families.base import Grid


class PackedFeatures(NamedTuple):
    """The features of `S` image slots in row order, one behind the other.

    Attributes:
        table: float[ΣK, W].
        lengths: K of each slot.
        grids: of each slot, as its family cuts the picture up.
    """

    table: Tensor
    lengths: tuple[int, ...]
    grids: tuple[Grid, ...]

    def split(self) -> tuple[Tensor, ...]:
        """float[K, W] of each slot, views of the table."""
        return self.table.split(self.lengths)


def pack(features: Sequence[Tensor], grids: Sequence[Grid]) -> PackedFeatures:
    """Features float[K, W] of at least one slot, in one table."""
    return PackedFeatures(torch.cat(tuple(features)), tuple(map(len, features)), tuple(grids))


def grids_of(table: Tensor | None, pictures: int) -> list[Grid]:
    """int64[N, G] as a grid for each of N pictures; None where all are alike."""
    return [()] * pictures if table is None else list(map(tuple, table.tolist()))
