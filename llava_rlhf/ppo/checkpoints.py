"""What a PPO checkpoint holds, written and read back on every process.

lora_policy/, lora_value/, value_head.safetensors   the trained roles (without a critic the policy alone)
optimizer.safetensors      moments of these roles, and the scaler of float16 (under DeepSpeed: its own files in deepspeed/)
random_0.safetensors, …    the random states of each process
state.json                 steps done, place in the prompts, KL controller, the critic's units
arguments.json             the record of the run: settings, inputs, versions, processes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.ppo.return_normalizer import ReturnNormalizer
from llava_rlhf.runs.checkpoints import STATE, written_into, written_whole
from llava_rlhf.runs.random_state import restore_random_state
from llava_rlhf.runs.role_files import POLICY, VALUE, VALUE_HEAD
from llava_rlhf.runs.run_folder import write_arguments
from llava_rlhf.runs.tensor_files import load_tree, save_tree
from models.divided_weights import is_divided_weight, whole
from models.roles import Policy, ValueModel

OPTIMIZER = "optimizer.safetensors"
RANDOM = "random_{}.safetensors"
ENGINE = "deepspeed"


@dataclass
class PPOState:
    """Everything that changes during a run.

    Attributes:
        accelerator: processes.
        model, optimizer: prepared.
        policy, value: the trained roles; without a critic the latter is None.
        kl_controller: its state is plain Python. The learning rate is a function of the step and needs no state.
        normalizer: the critic's units, or None.
        policy_base, value_base: recorded in the adapters' configurations.
        record: of the run (`run_record`).
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    policy: Policy
    value: ValueModel | None
    kl_controller: FixedKLController | AdaptiveKLController
    normalizer: ReturnNormalizer | None
    policy_base: str
    value_base: str
    record: Mapping[str, Any]

    def save_roles(self, folder: Path) -> None:
        """Write the trained adapters and the value head into a folder, whole. Called on every process."""
        with self._whole_roles():
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
            with self._whole_roles():
                if main:
                    self._write_roles(staged)
            if not main:
                return
            if not self._deepspeed:
                scaler = self.accelerator.scaler
                content = {
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
                save_tree(content, staged / OPTIMIZER)
            state = {"step": done, **place, "kl_controller": self.kl_controller.state_dict()}
            if self.normalizer is not None:
                state["returns"] = self.normalizer.state_dict()
            (staged / STATE).write_text(json.dumps(state, indent=2) + "\n")
            write_arguments(staged, self.record)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. Called on every process."""
        if not any(map(is_divided_weight, self._trained())):  # else the engine loads its parts of them
            self.policy.bank.load(POLICY, folder / POLICY)
            if self.value is not None:
                self.value.bank.load(VALUE, folder / VALUE)
                self.value.head.load(folder / VALUE_HEAD)
        if self._deepspeed:
            self.model.load_checkpoint(str(folder / ENGINE), tag="state", load_module_strict=False)
        else:
            content = load_tree(folder / OPTIMIZER)
            self.optimizer.load_state_dict(content["optimizer"])
            if self.accelerator.scaler is not None and content["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(content["scaler"])
        state = read_state(folder)
        self.kl_controller.load_state_dict(state["kl_controller"])
        if self.normalizer is not None and "returns" in state:  # absent where the run began without
            self.normalizer.load_state_dict(state["returns"])
        random = folder / RANDOM.format(self.accelerator.process_index)
        if random.is_file():  # absent when the run goes on with more processes
            restore_random_state(load_tree(random))

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _whole_roles(self) -> AbstractContextManager[None]:
        return whole(self._trained())

    def _write_roles(self, folder: Path) -> None:
        self.policy.bank.save(POLICY, folder / POLICY, self.policy_base)
        if self.value is not None:
            self.value.bank.save(VALUE, folder / VALUE, self.value_base)
            self.value.head.save(folder / VALUE_HEAD)

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


def check_roles(folder: Path | None, critic: bool) -> None:
    """Raise ValueError for a checkpoint whose trained roles, and so the groups of its optimizer, are other ones.

    `critic` says whether the run that goes on from `folder` (None: it starts afresh) trains one.
    """
    had = critic if folder is None else (folder / VALUE).is_dir()
    if had != critic:
        was, trained = ("with", "none") if had else ("without", "one")
        raise ValueError(
            f"{folder} was written {was} a critic, and this --advantage_estimator trains {trained}: weights and optimizer do not "
            "fit; use the estimator that arguments.json there names, or another --output_dir"
        )


def read_state(folder: Path) -> dict[str, Any]:
    """Content of a checkpoint's `state.json`."""
    return json.loads((folder / STATE).read_text(encoding="utf-8"))
