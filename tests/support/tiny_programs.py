"""The training programs in-process on tiny data: run, or only checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command

PROGRAMS = {"reward": train_reward_model, "policy": initialize_policy_model, "ppo": train_rl_model}


def train_policy(data: TinyData, base: Path, folder: Path) -> Path:
    """A policy that stops sometimes, and has moved far enough from its base to answer otherwise; returns its folder."""
    argv = policy_command(data, base, folder, max_steps=8, learning_rate=1e-2, save_strategy="no")
    initialize_policy_model.run(initialize_policy_model.prepare(argv))
    return folder


def prepare_program(
    program: str, data: TinyData, base: Path, policy: Path, reward: Path, output: Path, **changes: Any
) -> Any:
    """Check a command line of one of `PROGRAMS`, all of whose models stand on `base`; `changes` replace or add flags."""
    if program == "ppo":
        changes = {"reward_base_model_name": base, **changes}
        argv = ppo_command(data, base, policy, reward, output, **changes)
    else:
        make = reward_command if program == "reward" else policy_command
        argv = make(data, base, output, **changes)
    return PROGRAMS[program].prepare(argv)
