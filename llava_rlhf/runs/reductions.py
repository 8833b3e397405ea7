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


def global_max(accelerator: Accelerator, number: int) -> int:
    """The largest of the numbers that the processes give."""
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def global_rows(accelerator: Accelerator, rows: Tensor) -> Tensor:
    """Rows of all processes, as float[R · processes, …] in their global order: position g is row g // processes of process g % processes."""
    return (
        accelerator.gather(rows).unflatten(0, (accelerator.num_processes, -1)).transpose(0, 1).flatten(0, 1)
    )


def own_rows(accelerator: Accelerator, rows: Tensor) -> Tensor:
    """This process's rows of those that `global_rows` gives."""
    return rows[accelerator.process_index :: accelerator.num_processes]
