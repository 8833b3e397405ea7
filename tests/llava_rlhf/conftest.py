"""Finished tiny runs that several tests start from; all folders are shared and read-only."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model
from tests.support.answer_rows import Scored, score_rows
from tests.support.ppo_world import Assembled, assemble
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command, write_tiny_data


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> TinyData:
    """16 rows of each kind."""
    return write_tiny_data(tmp_path_factory.mktemp("data") / "tiny data")  # with a space in its path


@pytest.fixture(scope="session")
def policy_run(tiny_base, tiny_data, tmp_path_factory) -> Path:
    """A policy trained until it often stops, so that its answers have different lengths."""
    folder = tmp_path_factory.mktemp("runs") / "policy"
    argv = policy_command(tiny_data, tiny_base, folder, max_steps=25, learning_rate=1e-2, save_steps=25)
    initialize_policy_model.run(initialize_policy_model.prepare(argv))
    return folder


@pytest.fixture(scope="session")
def reward_run(tiny_base, tiny_data, tmp_path_factory) -> Path:
    """A reward model on the policy's base, trained for a few steps so that its adapter matters."""
    return _train_reward_model(tiny_base, tiny_data, tmp_path_factory.mktemp("runs") / "reward")


@pytest.fixture(scope="session")
def scored_rows(tiny_data, reward_run, tmp_path_factory) -> Scored:
    """Rows to ask a reward service for, and their scores by the program."""
    return score_rows(tiny_data, reward_run, tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="session")
def own_base_reward_run(tiny_reward_base, tiny_data, tmp_path_factory) -> Path:
    """A reward model on a larger base with larger images."""
    return _train_reward_model(
        tiny_reward_base, tiny_data, tmp_path_factory.mktemp("runs") / "own_base_reward"
    )


def _train_reward_model(base: Path, data: TinyData, folder: Path) -> Path:
    argv = reward_command(data, base, folder, max_steps=5, learning_rate=1e-2, save_steps=5)
    train_reward_model.run(train_reward_model.prepare(argv))
    return folder


@pytest.fixture(scope="session")
def ppo_on_one_base(tiny_data, tiny_base, policy_run, reward_run):
    """ppo_on_one_base(output_dir, **changes): command line of PPO with one shared base."""

    def make(output_dir, **changes):
        return ppo_command(tiny_data, tiny_base, policy_run, reward_run, output_dir, **changes)

    return make


@pytest.fixture(scope="module")
def command(ppo_on_one_base, tmp_path_factory):
    """command(**changes): the same, in one folder."""
    folder = tmp_path_factory.mktemp("ppo")
    return lambda **changes: ppo_on_one_base(folder, **changes)


@pytest.fixture(scope="module")
def parts(command) -> Assembled:
    """Four adapters that all differ, and a value head that is not 0."""
    return assemble(command(), spread=0.05)
