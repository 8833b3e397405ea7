"""The gradient of an optimizer step: added up over micro-batches, each wholly or not at all, then over processes.

DDP is not used: it would exchange gradients in the middle of a backward pass, where a micro-batch that runs out of
memory can't be tried again, and it needs the same number of micro-batches on every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

BUCKET = 2**24  # numbers that are exchanged at once


class Gradients:
    """Fills `.grad` of the trained weights.

    Args:
        accelerator: processes, and the scaler of float16.
        roles: the trained weights of each role.
    """

    def __init__(self, accelerator: Accelerator, roles: Mapping[str, Sequence[nn.Parameter]]):
        self.accelerator = accelerator
        self.roles = roles

    def of(self, role: str, loss: Tensor) -> list[Tensor]:
        """Gradients of a loss that depends on one role only; nothing is added yet."""
        if self.accelerator.scaler is not None:
            loss = self.accelerator.scaler.scale(loss)
        return list(torch.autograd.grad(loss, self.roles[role]))

    def add(self, gradients: Mapping[str, Sequence[Tensor]]) -> None:
        """Add what `of` gave for each role."""
        for role, parts in gradients.items():
            for parameter, part in zip(self.roles[role], parts, strict=True):
                parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)

    def sum_over_processes(self) -> None:
        """Exchange: every process gets the sum (the losses are already divided by the tokens of all)."""
        if self.accelerator.num_processes == 1:
            return
        bucket: list[Tensor] = []
        for gradient in [parameter.grad for role in self.roles.values() for parameter in role] + [None]:
            if gradient is None or sum(part.numel() for part in bucket) + gradient.numel() > BUCKET:
                _sum_bucket(bucket)
                bucket = []
            if gradient is not None:
                bucket.append(gradient)


def _sum_bucket(bucket: Sequence[Tensor]) -> None:
    if not bucket:
        return
    flat = torch.cat([gradient.flatten().float() for gradient in bucket])
    torch.distributed.all_reduce(flat)
    for gradient, total in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
        gradient.copy_(total.view_as(gradient))
