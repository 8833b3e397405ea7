"""What `RoleTrainer` adds to the Trainer's loop: `metrics.jsonl`, signals, when a checkpoint is made, and a guard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback

from data_utils.batches import FILL, ROWS
from llava_rlhf.runs.run_folder import JsonLines
from llava_rlhf.runs.stopping import Alarm, StopSignals


class MetricsFile(TrainerCallback):
    """Appends every logged record to `metrics.jsonl`."""

    def __init__(self, file: JsonLines):
        self.file = file

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """One line per log call, with its step."""
        self.file.append({"step": state.global_step, **(logs or {})})


class SavesAndStops(TrainerCallback):
    """Saves and stops at the end of a step when a signal asks for it, on all processes at the same one.

    A checkpoint due after the last step of an epoch, or of the run, is made after what else is due there (evaluation,
    logging): the run that continues from it starts with the next epoch.

    Attributes:
        signals: entered around training.
        stopped_by: the signal that ended training before its last step, or 0.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signals = StopSignals()
        self.stopped_by = 0
        self._due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end of training after a signal."""
        number = self.signals.agreed(self.accelerator)
        if number and state.global_step < state.max_steps:
            self.stopped_by = number
            control.should_save = control.should_training_stop = True
        ends_epoch = state.epoch == int(state.epoch) or state.global_step >= state.max_steps
        if control.should_save and ends_epoch:
            control.should_save, self._due = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the checkpoint that waited."""
        if self.stopped_by and not self._due:  # in the middle of an epoch, of which the Trainer sees the end
            control.should_log = control.should_evaluate = control.should_save = False
        control.should_save, self._due = control.should_save or self._due, False


class RestoreSums(TrainerCallback):
    """Calls `restore` when the Trainer has set its running sums to 0, before the first step."""

    def __init__(self, restore: Callable[[], None]):
        self.restore = restore

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore."""
        self.restore()


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
