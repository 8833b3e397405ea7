"""What a PPO checkpoint holds, written and read back on every process.

lora_policy/, lora_value/, value_head.safetensors   the trained roles
optimizer.safetensors      moments of both roles, and the scaler of float16 (under DeepSpeed: its own files in deepspeed/)
random_0.safetensors, …    the random states of each process
state.json                 steps done, place in the prompts, KL controller
arguments.json             the record of the run: settings, inputs, versions, processes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.runs.checkpoints import written_into, written_whole
from llava_rlhf.runs.random_state import restore_random_state
from llava_rlhf.runs.role_files import POLICY, VALUE, VALUE_HEAD
from llava_rlhf.runs.run_folder import write_arguments
from llava_rlhf.runs.tensor_files import load_tree, save_tree
from models.roles import Policy, ValueModel

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random_{}.safetensors"
ENGINE = "deepspeed"


@dataclass
class PPOState:
    """Everything that changes during a run.

    Attributes:
        accelerator: processes.
        model, optimizer: prepared.
        policy, value: the trained roles.
        kl_controller: its state is plain Python. The learning rate is a function of the step and needs no state.
        policy_base, value_base: recorded in the adapters' configurations.
        record: of the run (`run_record`).
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    policy: Policy
    value: ValueModel
    kl_controller: FixedKLController | AdaptiveKLController
    policy_base: str
    value_base: str
    record: Mapping[str, Any]

    def save_roles(self, folder: Path) -> None:
        """Write both adapters and the value head into a folder, whole (main process only)."""
        if self.accelerator.is_main_process:
            with written_into(folder) as staged:
                self._write_roles(staged)

    def save(self, final: Path, done: int, place: Mapping[str, int], random: Mapping[str, Any]) -> None:
        """Write the state after `done` steps, whole or not at all. Called on every process.

        Args:
            final: the checkpoint's folder.
            done: finished steps.
            place: where in the prompts the next step begins, and the lines of `metrics.jsonl`.
            random: this process's random states (`random_state`) after those steps.
        """
        main = self.accelerator.is_main_process
        with written_whole(final, main, self.accelerator.wait_for_everyone) as staged:
            save_tree(random, staged / RANDOM.format(self.accelerator.process_index))
            if self._deepspeed:
                self.model.save_checkpoint(str(staged / ENGINE), tag="state", exclude_frozen_parameters=True)
            if not main:
                return
            self._write_roles(staged)
            if not self._deepspeed:
                scaler = self.accelerator.scaler
                content = {
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
                save_tree(content, staged / OPTIMIZER)
            state = {"step": done, **place, "kl_controller": self.kl_controller.state_dict()}
            (staged / STATE).write_text(json.dumps(state, indent=2) + "\n")
            write_arguments(staged, self.record)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. Called on every process."""
        self.policy.bank.load(POLICY, folder / POLICY)
        self.value.bank.load(VALUE, folder / VALUE)
        self.value.head.load(folder / VALUE_HEAD)
        if self._deepspeed:
            self.model.load_checkpoint(str(folder / ENGINE), tag="state", load_module_strict=False)
        else:
            content = load_tree(folder / OPTIMIZER)
            self.optimizer.load_state_dict(content["optimizer"])
            if self.accelerator.scaler is not None and content["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(content["scaler"])
        self.kl_controller.load_state_dict(read_state(folder)["kl_controller"])
        random = folder / RANDOM.format(self.accelerator.process_index)
        if random.is_file():  # absent when the run goes on with more processes
            restore_random_state(load_tree(random))

    def _write_roles(self, folder: Path) -> None:
        self.policy.bank.save(POLICY, folder / POLICY, self.policy_base)
        self.value.bank.save(VALUE, folder / VALUE, self.value_base)
        self.value.head.save(folder / VALUE_HEAD)

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


def read_state(folder: Path) -> dict[str, Any]:
    """Content of a checkpoint's `state.json`."""
    return json.loads((folder / STATE).read_text(encoding="utf-8"))
