"""What the two `transformers.Trainer` programs refuse to train on: losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_rlhf.runs.alarm import Alarm
from llava_rlhf.supervised.whole_steps import FILL, ROWS


class TrainerGuard:
    """Checks each micro-batch's loss before its backward pass, and each step's gradient before the weights move.

    Args:
        accelerator: processes.
        output_dir: run folder.
        data_file: what the row numbers refer to.
    """

    def __init__(self, accelerator: Accelerator, output_dir: str | Path, data_file: str):
        self.alarm = Alarm(accelerator, output_dir)
        self.data_file = data_file
        self._batches: list[list[dict[str, Any]]] = []  # of the step under way

    def check_loss(self, loss: Tensor, inputs: Mapping[str, Tensor], scores: Tensor, step: int) -> None:
        """Refuse a non-finite loss. Raises NonFiniteError on every process.

        Args:
            loss: scalar.
            inputs: the micro-batch, with `rows` int64[B] where they are known.
            scores: float[B, ...], what the model said of each row.
            step: counted from 0.
        """
        rows = inputs[ROWS].tolist() if ROWS in inputs else [None] * len(scores)
        self._batches.append(
            [
                {"file": self.data_file, "row": row, "model_output": repr(output)}
                for row, output in zip(rows, scores.detach().tolist(), strict=True)
                if row != FILL
            ]
        )
        bad = not bool(torch.isfinite(loss))
        self.alarm.stop_on_non_finite({"the loss is": bad}, step, lambda: self._batches[-1])

    def check_norm(self, norm: float | Tensor, step: int) -> None:
        """Refuse a non-finite gradient of a step; ends the step. Raises NonFiniteError on every process."""
        rows = [row for batch in self._batches for row in batch]
        self._batches.clear()
        # fp16 scaling meets infinite gradients all the time, and skips such a step itself.
        bad = not math.isfinite(norm) and self.alarm.accelerator.mixed_precision != "fp16"
        self.alarm.stop_on_non_finite({"the gradient is": bad}, step, lambda: rows)
