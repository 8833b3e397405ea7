"""Each program under `torchrun --nproc-per-node 2`, as the scripts launch it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.comparing import assert_same_roles, metrics_of, weights_in
from tests.distributed.processes import POLICY_INIT, PPO, REWARD
from tests.support.forking import QUIET_CPU
from tests.support.tiny_data import policy_command, ppo_command, reward_command

# The daily suite starts programs so in tests of faults, of signals and of a script's whole run.
pytestmark = [pytest.mark.distributed, pytest.mark.nightly]

ROOT = Path(__file__).parents[2]


def torchrun(program: str, argv: list[str]) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    finished = subprocess.run(
        [*launcher, program, *argv],
        cwd=ROOT,
        env={**os.environ, **QUIET_CPU},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]
    return finished.stdout


def test_policy_initialisation(tmp_path, tiny_base, data, policy_folder):
    """Twice two rows instead of four: the same result as in one process."""
    torchrun(POLICY_INIT, policy_command(data, tiny_base, tmp_path / "run", per_device_train_batch_size=2))
    assert_same_roles(policy_folder, tmp_path / "run")


def test_reward_model(tmp_path, tiny_base, data, reward_folder):
    torchrun(REWARD, reward_command(data, tiny_base, tmp_path / "run", per_device_train_batch_size=2))
    assert_same_roles(reward_folder, tmp_path / "run")


def test_ppo(tmp_path, tiny_base, data, policy_folder, reward_folder):
    run = tmp_path / "run"
    argv = ppo_command(data, tiny_base, policy_folder, reward_folder, run, step_per_device_batch_size=2)
    printed = torchrun(PPO, argv)
    # The data summary and the line of a step are printed by one process only.
    assert printed.count("step 2/2") == 1
    assert metrics_of(run, 2)["ppo/loss/grad_norm"] > 0
    assert {path.name for path in run.glob("checkpoint-2/random_*")} == {
        f"random_{rank}.safetensors" for rank in (0, 1)
    }
    before, after = (
        weights_in(folder)["lora_policy/adapter_model.safetensors"] for folder in (policy_folder, run)
    )
    assert any((after[name] != before[name]).any() for name in before)
