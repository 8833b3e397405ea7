"""`transformers.Trainer` for one role: whole checkpoints with the role's own files, and `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DeepSpeedSchedulerWrapper
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import rotate_checkpoints

from llava_rlhf.checkpoints import (
    checkpoint_folder,
    leave_frozen_weights_out,
    step_of,
    written_whole,
)
from llava_rlhf.run_folder import JsonLines

TRAINER_STATE = "trainer_state.json"


class RoleTrainer(Trainer):
    """Trains a module of which only the adapter (and head) is saved.

    Args:
        save_role: writes the role's files into a folder; called on the writing process only.
        load_role: reads them back; called on every process.
        resume: the checkpoint that `train` will be given, or None.
        kwargs: as for `transformers.Trainer`.
    """

    def __init__(
        self,
        *args: Any,
        save_role: Callable[[Path], None],
        load_role: Callable[[Path], None],
        resume: Path | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        leave_frozen_weights_out(self.model)
        self.save_role = save_role
        self.load_role = load_role
        self._staging: Path | None = None
        if self.is_world_process_zero():
            path = Path(self.args.output_dir) / "metrics.jsonl"
            self.add_callback(_MetricsFile(JsonLines(path, step_of(resume) if resume else 0)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the role's files (not the frozen base) to `output_dir`."""
        folder = Path(output_dir or self.args.output_dir)
        with _gathered(self.model):
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                self.save_role(folder)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as `Trainer` does, but under a temporary name; rename when every file is there."""
        run = Path(self.args.output_dir)
        final = checkpoint_folder(run, self.state.global_step)
        with written_whole(final, self.args.should_save, self.accelerator.wait_for_everyone) as staged:
            self._staging = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The Trainer would leave the frozen base out only where it sees a bare PeftModel.
        self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save and not isinstance(self.lr_scheduler, DeepSpeedSchedulerWrapper):
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_role(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        with _gathered(self.model, modifier_rank=0):
            self.load_role(Path(self.state.best_model_checkpoint))


class _MetricsFile(TrainerCallback):
    """Appends every logged record to `metrics.jsonl`."""

    def __init__(self, file: JsonLines):
        self.file = file

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """One line per log call, with its step."""
        self.file.append({"step": state.global_step, **(logs or {})})


@contextmanager
def _gathered(model: nn.Module, modifier_rank: int | None = None) -> Iterator[None]:
    """Under ZeRO-3, make the trained weights whole for reading (and writing, from `modifier_rank`)."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with deepspeed.zero.GatheredParameters(trained, modifier_rank=modifier_rank), torch.no_grad():
        yield
