"""Sums and moments over the numbers of all processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_rlhf.functional.masked import Moments, merge_moments


def global_moments(accelerator: Accelerator, local: Moments) -> Moments:
    """Moments over the numbers of all processes."""
    gathered = accelerator.gather(torch.stack(local).to(accelerator.device).unsqueeze(0))
    return merge_moments([Moments(*row) for row in gathered.cpu()])


def global_sums(accelerator: Accelerator, sums: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Sum each number over all processes, in float64, with one collective."""
    names = list(sums)
    packed = torch.tensor(
        [float(sums[name]) for name in names], dtype=torch.float64, device=accelerator.device
    )
    return dict(zip(names, accelerator.reduce(packed, reduction="sum").tolist(), strict=True))
