"""Statistics over the positions that count.

Padding may hold anything, NaN included: it is replaced before any arithmetic, never multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WHITEN_EPS = 1e-8  # added to the standard deviation, as published


def check_mask(mask: Tensor, *tensors: Tensor) -> None:
    """Assert that ``mask`` is bool and shaped like every one of ``tensors``: broadcasting here is always a mistake."""
    assert mask.dtype == torch.bool, f"a mask must be bool (True = counts), got {mask.dtype}"
    for tensor in tensors:
        assert tensor.shape == mask.shape, (
            f"tensor {tuple(tensor.shape)} and mask {tuple(mask.shape)} differ in shape"
        )


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``x`` where ``mask`` is True.

    Args:
        x: float[...], any values where it does not count.
        mask: bool[...] of the same shape, True = counts.

    Returns:
        Scalar of ``x``'s dtype; 0 when nothing counts.
    """
    check_mask(mask, x)
    return x.masked_fill(~mask, 0.0).sum()


class Moments(NamedTuple):
    """Count, mean and summed squared deviations of some numbers: what one process knows, mergeable with the others'.

    Each field is a float64 0-d tensor. ``torch.stack(moments)`` is one float64[3] to send to other processes, and
    ``Moments(*row)`` turns a received one back. Without numbers all three are 0.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @property
    def var(self) -> Tensor:
        """Population variance; NaN when there are no numbers."""
        return self.m2 / self.count


def moments(x: Tensor, mask: Tensor) -> Moments:
    """Moments of ``x`` where ``mask`` is True, by two passes in float64 (shapes as in :func:`masked_sum`)."""
    check_mask(mask, x)
    wide = x.detach().double()
    count = mask.sum().double()
    mean = masked_sum(wide, mask) / count.clamp_min(1.0)
    return Moments(count, mean, masked_sum((wide - mean).square(), mask))


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Moments of the union of disjoint groups of numbers, whatever their order; empty groups change nothing.

    Source: the pairwise update of Chan, Golub and LeVeque (1979), here for any number of groups at once.
    """
    counts, means, m2s = (torch.stack(column) for column in zip(*parts, strict=True))
    total = counts.sum()
    mean = (counts * means).sum() / total.clamp_min(1.0)
    return Moments(total, mean, (m2s + counts * (means - mean).square()).sum())


def whiten(x: Tensor, mask: Tensor, moments: Moments, shift_mean: bool) -> Tensor:
    """``(x - mean) / (std + 1e-8)``, plus the mean again when it shall not be shifted away.

    Args:
        x: float[...], detached numbers such as rewards or advantages.
        mask: bool[...] of the same shape, True = counts.
        moments: those of the whole batch, over all processes.
        shift_mean: True moves the mean to 0 (advantages); False keeps it (rewards).

    Returns:
        float[...] like ``x``, zero where ``mask`` is False.

    Raises:
        ValueError: ``moments`` hold no numbers.
    """
    check_mask(mask, x)
    if moments.count == 0:
        raise ValueError("cannot whiten with moments of no numbers: the whole batch has no token that counts")
    whitened = (x.double() - moments.mean) / (moments.var.sqrt() + WHITEN_EPS)
    if not shift_mean:
        whitened = whitened + moments.mean
    return whitened.masked_fill(~mask, 0.0).to(x.dtype)


def last_true_index(mask: Tensor) -> Tensor:
    """Column of the last True of every row.

    Args:
        mask: bool[B, T], True = counts.

    Returns:
        int64[B].

    Raises:
        ValueError: a row has no True; the message names the rows.
    """
    check_mask(mask)
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"rows {empty} of the mask have no token that counts: every response needs at least one"
        )
    columns = torch.arange(mask.shape[1], device=mask.device)
    return columns.expand_as(mask).masked_fill(~mask, -1).amax(dim=1)
