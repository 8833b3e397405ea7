"""What a launch checks before it starts any process, and how it ends when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recorded_scripts import ROOT
from tests.support.tiny_data import policy_command, write_tiny_data

MODULE = "llava_rlhf.initialize_policy_model"
# Plays the program: writes what it was told, checks with the status CHECK, and runs with RUN.
PLAYER = """#!/usr/bin/env bash
check="${CHECK_FOR_PROCESSES:-}"
echo "$([ -n "$check" ] && echo "check for $check on GPU $CUDA_VISIBLE_DEVICES" || echo "start")" "${*: -1}" >>"$PLAYED"
[ -z "$check" ] || exit "$CHECK"
[ -z "${REFUSES:-}" ] || { echo "error: it changed" >"$REFUSALS_DIR/1"; echo "a launcher's trace" >&2; exit 1; }
exit "$RUN"
"""


@pytest.fixture
def play(tmp_path):
    """play(**environment): launch the player; its exit status, what was played, and the error output."""
    player, played = tmp_path / "player", tmp_path / "played"
    player.write_text(PLAYER)
    player.chmod(0o755)

    def _play(module: str = MODULE, **environment: str) -> tuple[int, list[str], str]:
        played.write_text("")
        line = f'set -euo pipefail; source scripts/common.sh; launch {module} a "b c"; echo after >>"$PLAYED"'
        given = {"PYTHON": str(player), "PLAYED": str(played), "CHECK": "10", "RUN": "0", **environment}
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env={**kept, **given}, capture_output=True, text=True, check=False
        )
        return done.returncode, played.read_text().splitlines(), done.stderr

    return _play


def test_the_program_is_checked_once_for_all_processes_and_sees_one_gpu(play):
    nodes = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "host", "NUM_PROCESSES": "4"}
    status, played, _ = play(**nodes, CUDA_VISIBLE_DEVICES="3,1")
    assert status == 0 and played == ["check for 8 on GPU 3 b c", "start b c", "after"]
    assert play()[1][0] == "check for 1 on GPU 0 b c"
    assert play(CUDA_VISIBLE_DEVICES="")[1][0] == "check for 1 on GPU  b c"


def test_a_refusal_starts_nothing_and_is_the_status(play):
    assert play(CHECK="2")[:2] == (2, ["check for 1 on GPU 0 b c"])


def test_a_finished_run_starts_nothing_and_the_script_goes_on(play):
    assert play(CHECK="0")[:2] == (0, ["check for 1 on GPU 0 b c", "after"])


def test_after_a_summary_the_script_ends(play):
    assert play(CHECK="11")[:2] == (0, ["check for 1 on GPU 0 b c"])
    assert play(LAUNCHER="none", RUN="11")[:2] == (0, ["start b c"])


@pytest.mark.parametrize(
    ("environment", "module"), [({"LAUNCHER": "none"}, MODULE), ({}, "my_own_program")], ids=str
)
def test_what_is_not_checked(play, environment, module):
    """One process without a launcher, which says itself what is wrong; a program that knows of no check."""
    assert play(module, **environment)[1] == ["start b c", "after"]


def test_a_dry_run_prints_the_start_alone(play):
    done = subprocess.run(
        ["bash", "-c", f"source scripts/common.sh; launch {MODULE} a"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{sys.executable} -m torch.distributed.run") and done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_what_a_process_refuses_is_said_last(play):
    status, played, said = play(REFUSES="1")
    assert status == 1 and played == ["check for 1 on GPU 0 b c", "start b c"]
    assert said.splitlines() == ["a launcher's trace", "error: it changed"]


@pytest.mark.slow
def test_all_missing_paths_are_one_message_and_nothing_else(tmp_path):
    """The real program, for two processes of torchrun."""
    data = write_tiny_data(tmp_path / "data")
    absent = tmp_path / "absent"
    argv = policy_command(data, absent / "base", tmp_path / "run", dataset_path=absent / "data.json")
    done = subprocess.run(
        ["bash", "-c", 'source scripts/common.sh; launch "$@"', "launch", MODULE, *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "NUM_PROCESSES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "from the environment: NUM_PROCESSES=2\n"
        "error: 2 things that the command line names are not there:\n"
        f"  --dataset_path {absent}/data.json: no such file\n"
        f"  --model_name_or_path {absent}/base: no such directory\n"
    )
    assert not Path(tmp_path / "run").exists()
