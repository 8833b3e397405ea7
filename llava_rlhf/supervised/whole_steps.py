"""Batches of the two `transformers.Trainer` programs: every optimizer step has as many rows, and a row knows its number.

Where the rows are no multiple of a step, accelerate gives the processes some rows twice, so that the last step of an epoch
would depend on the number of processes. Here such rows carry no loss, which nothing but the real ones is divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_utils.batches import NO_LOSS
from data_utils.datasets import ExampleDataset

ROWS = "rows"
FILL = -1  # the row number of a row that only fills a step


class WholeSteps(Dataset):
    """A data set filled up to a multiple of `step` rows: items are (row number in the data file or `FILL`, item)."""

    def __init__(self, dataset: ExampleDataset, step: int = 1):
        self.dataset = dataset
        self.numbers = dataset.column("row")
        self.length = -(-len(dataset) // step) * step

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, Any]:
        real = index < len(self.dataset)
        # What fills a step is a row like any other, so that shapes and images are nothing new.
        return self.numbers[index] if real else FILL, self.dataset[index % len(self.dataset)]


@dataclass(frozen=True)
class WholeStepsCollator:
    """Numbered items → the batch of `collate` as a dictionary, with `rows` int64[B].

    At rows that only fill a step, `labels` int64[B, L] or `choice` int64[B] are −100.
    """

    collate: Callable[[Sequence[Any]], Mapping[str, Tensor]]

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, Tensor]:
        batch = dict(self.collate([item for _, item in items]))
        rows = torch.tensor([number for number, _ in items])
        for name in {"labels", "choice"} & batch.keys():
            batch[name][rows == FILL] = NO_LOSS
        return {**batch, ROWS: rows}
