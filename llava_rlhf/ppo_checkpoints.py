"""What a PPO checkpoint holds, written and read back on every process."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from llava_rlhf.checkpoints import written_whole
from llava_rlhf.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.role_files import POLICY, VALUE, VALUE_HEAD
from models.roles import Policy, ValueModel

STATE = "state.json"
OPTIMIZER = "optimizer.pt"
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
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    policy: Policy
    value: ValueModel
    kl_controller: FixedKLController | AdaptiveKLController
    policy_base: str
    value_base: str

    def save_roles(self, folder: Path) -> None:
        """Write both adapters and the value head (main process only)."""
        if self.accelerator.is_main_process:
            self.policy.bank.save(POLICY, folder / POLICY, self.policy_base)
            self.value.bank.save(VALUE, folder / VALUE, self.value_base)
            self.value.head.save(folder / VALUE_HEAD)

    def save(self, final: Path, done: int) -> None:
        """Write the state after `done` steps, whole or not at all. Called on every process."""
        main = self.accelerator.is_main_process
        with written_whole(final, main, self.accelerator.wait_for_everyone) as staged:
            self.save_roles(staged)
            torch.save(_rng_state(), staged / f"rng_{self.accelerator.process_index}.pt")
            if self._deepspeed:
                self.model.save_checkpoint(str(staged / ENGINE), tag="state", exclude_frozen_parameters=True)
            elif main:
                torch.save(self.optimizer.state_dict(), staged / OPTIMIZER)
            if main:
                content = {"step": done, "kl_controller": self.kl_controller.state_dict()}
                (staged / STATE).write_text(json.dumps(content, indent=2) + "\n")

    def load(self, folder: Path) -> int:
        """Restore what `save` wrote; returns the number of steps done. Called on every process."""
        self.policy.bank.load(POLICY, folder / POLICY)
        self.value.bank.load(VALUE, folder / VALUE)
        self.value.head.load(folder / VALUE_HEAD)
        if self._deepspeed:
            self.model.load_checkpoint(str(folder / ENGINE), tag="state", load_module_strict=False)
        else:
            self.optimizer.load_state_dict(
                torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
            )
        content = json.loads((folder / STATE).read_text())
        self.kl_controller.load_state_dict(content["kl_controller"])
        rng = folder / f"rng_{self.accelerator.process_index}.pt"
        if rng.is_file():  # absent when the run goes on with more processes
            _restore_rng(torch.load(rng, weights_only=True))
        return content["step"]

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


def _rng_state() -> dict[str, object]:
    """Random states as plain values and tensors, so that they load with `weights_only=True`."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore_rng(state: dict[str, object]) -> None:
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
