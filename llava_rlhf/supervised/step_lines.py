"""What the Trainer shows while it trains: a line for each record of metrics, and on a terminal its bar."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from llava_rlhf.runs.logs import on_a_terminal
from llava_rlhf.runs.pace import Pace

# What every line says already, or nobody compares.
_UNSAID = ("total_flos", "epoch", "runtime", "samples_per_second", "steps_per_second")


class StepLines(TrainerCallback):
    """Prints each record with step, pace and time left; on the main process only."""

    def __init__(self) -> None:
        self._pace: Pace | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._pace = Pace(state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """One line."""
        if not state.is_world_process_zero or not logs:
            return
        shown = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in logs.items()
            if not name.endswith(_UNSAID)
        ]
        if self._pace is not None and "loss" in logs:
            shown.append(self._pace.after(state.global_step))
        print(f"step {state.global_step}/{state.max_steps}  " + "  ".join(filter(None, shown)), flush=True)


class Bar(ProgressCallback):
    """The Trainer's bar, without its records."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """`StepLines` prints them."""


def show_steps(trainer: Trainer) -> None:
    """Put these in the place of what the Trainer shows by itself."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if on_a_terminal() and not trainer.args.disable_tqdm:
        trainer.add_callback(Bar())
    trainer.add_callback(StepLines())
