"""DRY_RUN of every script: what it may be, and that nothing is started with it."""

from __future__ import annotations

import shlex
import sys

import pytest

from tests.scripts.test_launch_part import EVALUATE, TINY
from tests.support.recorded_scripts import LARGE, ONE_CARD

SCRIPTS = [
    *(*LARGE, *ONE_CARD, *EVALUATE, *TINY),
    *(
        "score.sh",
        "serve_reward.sh",
        "ablate.sh",
        "convert_checkpoint.sh",
        "tiny/build_base.sh",
        "tiny/run_all.sh",
    ),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_starts_nothing(script, runner, tmp_path):
    folders = {"OUTPUT_DIR": str(tmp_path / "out")} if "run_all" not in script else {"JOBS": "1"}
    folders["RUN_DIR"] = str(tmp_path / "run")
    done = runner.start(script, DRY_RUN="1", PYTHON=sys.executable, LAUNCHER=None, **folders)
    assert done.returncode == 0 and runner.calls() == [], done.stderr
    printed = [shlex.split(line) for line in done.stdout.splitlines() if line[:2] != "=="]
    assert [sys.executable, "-m"] in [words[:2] for words in printed]
    assert {words[0] for words in printed} <= {sys.executable, "rm"}
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["1", "true", "True", "YES", "yes"])
def test_values_that_ask_for_it(value, runner):
    done = runner.start("score.sh", DRY_RUN=value, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[:3] == [sys.executable, "-m", "llava_rlhf.score"]


@pytest.mark.parametrize("value", ["", "0", "false", "No", "FALSE"])
def test_values_that_do_not(value, runner):
    done = runner.start("score.sh", DRY_RUN=value)
    assert done.returncode == 0 and len(runner.calls()) == 1


@pytest.mark.parametrize("value", ["2", "y", "on", "ture"])
@pytest.mark.parametrize("script", ["score.sh", LARGE[0], EVALUATE[0]])
def test_other_values_are_refused(script, value, runner):
    done = runner.start(script, DRY_RUN=value)
    assert done.returncode == 2 and runner.calls() == []
    assert done.stderr.startswith(f"error: DRY_RUN={value}: 1, true or yes") and done.stderr.count("\n") == 1
