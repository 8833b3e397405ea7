"""`transformers.Trainer` for one role: whole checkpoints with the role's own files, and `metrics.jsonl`.

A checkpoint holds, besides the role: `optimizer.safetensors` (moments, schedule, scaler of float16), `process_0.safetensors`,
… (random states and running sums of each process), `trainer_state.json` (the Trainer's own: steps, epoch, best checkpoint)
and `arguments.json`. The order of rows is a function of seed and epoch, their place one of the step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DeepSpeedSchedulerWrapper
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer

from llava_rlhf.runs.checkpoints import (
    checkpoint_folder,
    delete_oldest,
    leave_frozen_weights_out,
    written_into,
    written_whole,
)
from llava_rlhf.runs.random_state import random_state, restore_random_state
from llava_rlhf.runs.run_folder import JsonLines, write_arguments
from llava_rlhf.runs.stopping import shield_workers_from_signals
from llava_rlhf.runs.tensor_files import load_tree, save_tree
from llava_rlhf.supervised.step_lines import show_steps
from llava_rlhf.supervised.trainer_hooks import MetricsFile, RestoreSums, SavesAndStops, TrainerGuard
from models.divided_weights import whole

TRAINER_STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
PROCESS = "process_{}.safetensors"


class RoleTrainer(Trainer):
    """Trains a module of which only the adapter (and head) is saved.

    Args:
        save_role: writes the role's files into a folder; called on the writing process only.
        load_role: reads them back; called on every process.
        record: of the run (`run_record`), for its checkpoints.
        resume: the checkpoint that `train` will be given, or None.
        data_file: where the rows come from; named when one of them gives a loss that is not finite.
        kwargs: as for `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        args: Any,
        save_role: Callable[[Path], None],
        load_role: Callable[[Path], None],
        record: Mapping[str, Any],
        resume: Path | None = None,
        data_file: str = "",
        **kwargs: Any,
    ):
        # The Trainer's own rule deletes the newest checkpoint when only one may stay and an older one is the best.
        args, self.keep_checkpoints = copy.copy(args), args.save_total_limit or 0
        args.save_total_limit = None
        super().__init__(args=args, **kwargs)
        leave_frozen_weights_out(self.model)
        self.save_role = save_role
        self.load_role = load_role
        self.record = record
        self.resume = resume
        # Of what was trained on since the last line of metrics, over all processes; a checkpoint keeps them.
        self.sums: dict[str, float] = {}
        self.guard = TrainerGuard(self.accelerator, self.args.output_dir, data_file)
        self._staging: Path | None = None
        self._metrics_file: JsonLines | None = None
        if self.is_world_process_zero():
            kept = self._process_state(resume)["metrics_lines"] if resume else 0
            self._metrics_file = JsonLines(Path(self.args.output_dir) / "metrics.jsonl", kept)
            self.add_callback(MetricsFile(self._metrics_file))
        self.stopping = SavesAndStops(self.accelerator)
        self.add_callback(self.stopping)
        self.add_callback(RestoreSums(self._restore_sums))
        show_steps(self)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm, refused where it is not finite: the weights have not moved yet."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.check_norm(norm, self.state.global_step)
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the role's files (not the frozen base) to `output_dir`, whole or not at all."""
        folder = Path(output_dir or self.args.output_dir)
        with whole(_trained(self.model)):
            if not self.args.should_save:
                return
            if self._staging is not None:
                self.save_role(folder)
            else:
                with written_into(folder) as staged:
                    self.save_role(staged)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; `train_loss` is the mean over all steps of the run, those before it was continued too."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        shield_workers_from_signals(loader)
        return loader

    def _init_training_state(
        self, max_steps: int, per_epoch: int, epochs: int, *args: Any
    ) -> tuple[int, int]:
        start = super()._init_training_state(max_steps, per_epoch, epochs, *args)
        # The Trainer would make one more step of a run that was ended between its last checkpoint and its result.
        return (epochs, 0) if self.state.global_step >= max_steps else start

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as `Trainer` does, but under a temporary name; rename when every file is there."""
        final = checkpoint_folder(self.args.output_dir, self.state.global_step)
        with written_whole(final, self.args.should_save, self.accelerator.wait_for_everyone) as staged:
            self._staging = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self._name_best_checkpoint(staged, final)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE))
                write_arguments(staged, self.record)
        self.delete_old_checkpoints()
        self.accelerator.wait_for_everyone()

    def delete_old_checkpoints(self) -> None:
        """Keep as many as `--save_total_limit` says."""
        if self.args.should_save:
            delete_oldest(self.args.output_dir, self.keep_checkpoints, self.state.best_model_checkpoint)

    def _name_best_checkpoint(self, staged: Path, final: Path) -> None:
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        scheduler, content = self.lr_scheduler, {}
        if self.is_deepspeed_enabled:
            # The Trainer would leave the frozen base out only where it sees a bare PeftModel.
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            scaler = self.accelerator.scaler
            content["optimizer"] = self.optimizer.state_dict()
            content["scaler"] = None if scaler is None else scaler.state_dict()
        if not isinstance(scheduler, DeepSpeedSchedulerWrapper):
            content["scheduler"] = scheduler.state_dict()
        if self.args.should_save:
            save_tree(content, Path(output_dir) / OPTIMIZER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        content = load_tree(Path(checkpoint) / OPTIMIZER)
        if "optimizer" in content:  # else DeepSpeed has loaded its own
            self.optimizer.load_state_dict(content["optimizer"])
        if content.get("scaler") is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        if "scheduler" in content:
            self.lr_scheduler.load_state_dict(content["scheduler"])

    def _save_scaler(self, output_dir: str) -> None:
        """Its state stands beside the optimizer's."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """It came with the optimizer's state."""

    def _save_rng_state(self, output_dir: str) -> None:
        content = {
            "random": random_state(),
            "loss_since_log": float(self._tr_loss),
            "loss_before": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "sums": dict(self.sums),
            "metrics_lines": 0 if self._metrics_file is None else self._metrics_file.lines,
        }
        save_tree(content, Path(output_dir) / PROCESS.format(self.args.process_index))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        file = Path(checkpoint) / PROCESS.format(self.args.process_index)
        if file.is_file():  # absent when the run goes on with more processes
            restore_random_state(load_tree(file)["random"])

    def _process_state(self, checkpoint: Path) -> dict[str, Any]:
        """What each process kept, of this one; with another number of processes, their mean loss."""
        files = sorted(checkpoint.glob(PROCESS.format("*")))
        states = [load_tree(file) for file in files]
        if len(states) == self.args.world_size:
            return load_tree(checkpoint / PROCESS.format(self.args.process_index))
        mean = sum(state["loss_since_log"] for state in states) / len(states)
        return {**load_tree(checkpoint / PROCESS.format(0)), "loss_since_log": mean}

    def _restore_sums(self) -> None:
        """Continue the running sums of the logged losses, which the Trainer starts from 0."""
        if self.resume is None:
            return
        state = self._process_state(self.resume)
        self._tr_loss = torch.tensor(state["loss_since_log"], device=self.args.device)
        self._total_loss_scalar = state["loss_before"]
        self._globalstep_last_logged = state["last_logged_step"]
        self.sums = dict(state.get("sums", {}))  # earlier versions had none

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_role(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        with whole(_trained(self.model), written=True):
            self.load_role(Path(self.state.best_model_checkpoint))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
