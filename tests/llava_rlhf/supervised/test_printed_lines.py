"""What a run prints, in a log file: the plan in two lines, a line a step, what was written; and no bars."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.recorded_scripts import ROOT
from tests.support.tiny_data import policy_command, ppo_command, reward_command

BARS = re.compile(r"\r|[█▏▎▍▌▋▊▉]|\d+%\|")


@pytest.fixture
def log_of(tmp_path):
    """log_of(program, argv): what it writes into a file, both streams."""

    def _log(program: str, argv: list[str]) -> str:
        file = tmp_path / "log.txt"
        with file.open("wb") as stream:
            subprocess.run(
                [sys.executable, "-m", f"llava_rlhf.{program}", *argv],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        return file.read_bytes().decode()

    return _log


@pytest.mark.slow
def test_a_reward_model(log_of, tiny_base, tiny_data, tmp_path):
    run = tmp_path / "run"
    changes = {"eval_size": 4, "eval_strategy": "steps", "eval_steps": 1, "disable_tqdm": False}
    log = log_of("train_reward_model", reward_command(tiny_data, tiny_base, run, **changes))
    assert not BARS.search(log), log
    lines = log.splitlines()
    assert log.count("--- example") == 1
    (plan,) = [place for place, line in enumerate(lines) if line.startswith("Memory of train_reward_model")]
    assert lines[plan + 1].startswith("  the most in: ") and not lines[plan + 2].startswith("  ")
    assert re.search(r"^step 1/2  loss .* learning_rate .* s a step, \d+ s left$", log, re.MULTILINE)
    assert re.search(r"^step 2/2  eval_loss .*eval_accuracy", log, re.MULTILINE) and "{'" not in log
    assert lines[-1].startswith(f"written to {run}: ") and "reward_model.json" in lines[-1]


@pytest.mark.slow
def test_everything_is_shown_when_asked_for(log_of, tiny_base, tiny_data, tmp_path):
    log = log_of(
        "initialize_policy_model", policy_command(tiny_data, tiny_base, tmp_path / "run", verbose=True)
    )
    assert log.count("--- example") == 3 and "<- peak" in log


@pytest.mark.slow
def test_ppo(log_of, tiny_base, tiny_data, policy_run, reward_run, tmp_path):
    run = tmp_path / "run"
    log = log_of("train_rl_model", ppo_command(tiny_data, tiny_base, policy_run, reward_run, run))
    assert not BARS.search(log), log
    assert log.count("--- example") == 1 and "\n  the most in: " in log
    assert re.search(r"^step 1/2  reward .* lr .* s a step, \d+ s left$", log, re.MULTILINE)
    last = log.splitlines()[-1]
    assert last.startswith(f"written to {run}: ") and "lora_policy/" in last
