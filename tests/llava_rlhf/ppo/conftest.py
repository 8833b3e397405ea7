"""Shared by the tests of PPO: its command line on one base, and its parts before the first step."""

from __future__ import annotations

import pytest

from tests.support.ppo_world import Assembled, assemble
from tests.support.tiny_data import ppo_command


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
