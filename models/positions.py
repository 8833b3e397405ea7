"""Which position each token has: counted from a row's first real token, pictures in as many dimensions as their family has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.families.base import Place


def text_positions(mask: Tensor | None, columns: int, device: torch.device) -> Tensor:
    """int64[B or 1, columns] where every token moves on by one.

    Real tokens are counted; columns behind a row's last one, which matter where padding counts, are counted on.
    """
    counted = torch.arange(columns, device=device)
    if mask is None:
        return counted.unsqueeze(0)
    return (mask.cumsum(dim=1) - 1).clamp(min=0) + _behind_last(mask, counted)


def picture_positions(
    image_places: Tensor, mask: Tensor | None, places: Sequence[Place]
) -> tuple[Tensor, Tensor]:
    """Positions int64[3, B, L], and that of a token behind each row int64[B, 1].

    Args:
        image_places: bool[B, L], True where features stand.
        mask: bool[B, L], True at real tokens; None: all are, or padding stands behind and is not read.
        places: of each picture, in row order.
    """
    device = image_places.device
    if mask is None:
        moves = torch.ones_like(image_places, dtype=torch.long)
    else:
        columns = torch.arange(mask.shape[1], device=device)
        moves = (mask | (_behind_last(mask, columns) > 0)).long()
    steps = [torch.zeros(place.relative.shape[1], dtype=torch.long) for place in places]
    for step, place in zip(steps, places, strict=True):
        step[-1] = place.step  # the text behind a picture moves on at its last position
    moves = moves.masked_scatter(image_places, torch.cat(steps).to(device))
    total = moves.cumsum(dim=1)
    begins = total - moves
    relative = begins.new_zeros(3, *begins.shape)
    relative[:, image_places] = torch.cat([place.relative for place in places], dim=1).to(device)
    return begins + relative, total[:, -1:]


def _behind_last(mask: Tensor, columns: Tensor) -> Tensor:
    return (columns - (mask * columns).amax(dim=1, keepdim=True)).clamp(min=0)
