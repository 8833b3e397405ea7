"""Shared by the tests with several processes: small data, and a policy and a reward model to start PPO from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.processes import POLICY_INIT, REWARD, run_in_processes
from tests.support.tiny_data import TinyData, policy_command, reward_command, write_tiny_data


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("distributed") / "data")


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory, tiny_base, data) -> Path:
    folder = tmp_path_factory.mktemp("distributed") / "policy"
    run_in_processes(POLICY_INIT, policy_command(data, tiny_base, folder), 1, folder)
    return folder


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory, tiny_base, data) -> Path:
    folder = tmp_path_factory.mktemp("distributed") / "reward"
    run_in_processes(REWARD, reward_command(data, tiny_base, folder), 1, folder)
    return folder
