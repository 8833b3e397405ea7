"""What `RoleTrainer` adds to the Trainer's loop: `metrics.jsonl`, signals, and when a checkpoint is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback

from llava_rlhf.runs.run_folder import JsonLines
from llava_rlhf.runs.stop_signals import StopSignals


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
