"""Shared by the tests of interruptions: small data, and a policy and a reward model to start PPO from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.forked import POLICY_INIT, PPO, REWARD, finish
from tests.support.ppo_settings import PPO_WITH_STATE
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command, write_tiny_data

# 5 steps of 4 rows from 16: past the end of an epoch. Dropout draws random numbers in every forward pass; a line of
# metrics every second step leaves a sum open at each odd one; the evaluation ends every epoch.
TRAINER = {
    "max_steps": 5,
    "lora_dropout": 0.2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "logging_steps": 2,
    "eval_size": 4,
    "per_device_train_batch_size": 4,
    "eval_strategy": "epoch",
    "save_total_limit": 2,
}
PPO_RUN = {**PPO_WITH_STATE, "save_total_limit": 2}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("reliability") / "data")


@pytest.fixture(scope="session")
def start_folders(tmp_path_factory, tiny_base, data) -> tuple[Path, Path]:
    """A policy and a reward model."""
    root = tmp_path_factory.mktemp("start")
    finish(POLICY_INIT, policy_command(data, tiny_base, root / "policy"), root / "policy", root / "notes-p")
    finish(REWARD, reward_command(data, tiny_base, root / "reward"), root / "reward", root / "notes-r")
    return root / "policy", root / "reward"


@pytest.fixture(scope="session")
def command(data, tiny_base, request) -> Callable[..., list[str]]:
    """command(program, output folder, **changes) → its command line."""

    def make(program: str, folder: Path, **changes) -> list[str]:
        if program == PPO:
            policy, reward = request.getfixturevalue("start_folders")
            return ppo_command(data, tiny_base, policy, reward, folder, **{**PPO_RUN, **changes})
        tiny = policy_command if program == POLICY_INIT else reward_command
        return tiny(data, tiny_base, folder, **{**TRAINER, **changes})

    return make


@pytest.fixture(scope="session")
def uninterrupted(command, tmp_path_factory):
    """uninterrupted(program, **changes) → its run folder and how many file operations it took; each runs once."""
    made = {}

    def run(program: str, world_size: int = 1, **changes) -> tuple[Path, int]:
        key = (program, world_size, *sorted(changes.items()))
        if key not in made:
            root = tmp_path_factory.mktemp("whole")
            argv = command(program, root / "run", **changes)
            made[key] = root / "run", finish(program, argv, root / "run", root / "notes", world_size).events()
        return made[key]

    return run
