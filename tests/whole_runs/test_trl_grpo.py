"""TRL's own GRPO, in its own environment, learns from our running reward service to hallucinate less (examples/trl_grpo)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recorded_scripts import ROOT
from tests.support.vllm_server import free_port

NO_TRL = 3  # exit code of scripts/setup_trl.sh


@pytest.fixture(scope="module")
def environment() -> Path:
    """The environment of scripts/setup_trl.sh, made where there is none; skips where the package index has no TRL."""
    folder = Path(os.environ.get("TRL_VENV") or ROOT / ".venv-trl")
    variables = {**os.environ, "TRL_VENV": str(folder), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "setup_trl.sh")],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_TRL:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.nightly
def test_reward_rises_and_hallucination_falls(environment, tmp_path):
    run = Path(os.environ.get("TRL_GRPO_RUN") or tmp_path / "run")  # one with a policy_init spares its making
    variables = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "RUN_DIR": str(run),
        "TRL_VENV": str(environment),
        "PYTHON": sys.executable,
        "PORT": str(free_port()),
        "GRPO_STEPS": "40",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "trl_grpo" / "run.sh")],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rewards = json.loads((run / "trl_grpo" / "rewards.json").read_text())
    assert len(rewards) == 40
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 1  # 4.9 and 7.1, measured
    before, after = (hallucination(run / "evaluation" / f"{name}_grpo") for name in ("before", "after"))
    assert after < before - 0.1  # 0.75 and 0.36 after 60 steps, measured


def hallucination(folder: Path) -> float:
    """Share of descriptions of held-out pictures with something that is not there."""
    table = json.loads((folder / "scores.json").read_text())["table"]
    return table["all"]["hallucination"]["value"]
