"""What trainers of preference pairs have in common: a step's loss is a mean over all its pairs, which are counted before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from llava_rlhf.supervised.role_trainer import RoleTrainer


class PairTrainer(RoleTrainer):
    """`Trainer` that gives `compute_loss` the number of pairs of the whole step, over all processes and accumulated batches."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # The Trainer leaves the division to `compute_loss`.
        self.model_accepts_loss_kwargs = True

    @staticmethod
    def real_pairs(batch: Mapping[str, Tensor]) -> Tensor:
        """bool[B]: which pairs of a micro-batch are pairs, and do not only fill the step."""
        raise NotImplementedError

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro-batches of a step, and its pairs over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = torch.tensor(sum(int(self.real_pairs(batch).sum()) for batch in batches), device=device)
        return batches, self.accelerator.reduce(pairs, reduction="sum")
