"""SIGKILL at any moment: what is saved is whole, and the run that continues is the run that was not killed, bit for bit."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from llava_rlhf.runs.checkpoints import complete_checkpoints
from tests.reliability.forked import POLICY_INIT, PPO, REWARD, Kill, finish, random_kills, start
from tests.reliability.same_runs import assert_same_run
from tests.support.tiers import tiered

KILLED = -9


def killed(program, argv, folder, notes, kill) -> str | None:
    """What the run was doing when it was killed; None when it had ended before."""
    run = start(program, argv, folder, notes, kill=kill)
    (code,) = run.exit_codes()
    assert code in (KILLED, 0), run.output()
    return run.phase() if code == KILLED else None


def survive(program, argv, folder: Path, expected: Path, kills: list[Kill]) -> list[str]:
    """Kill a run at each of these points in turn, continue it to its end and compare; returns where it was killed."""
    phases = []
    for number, kill in enumerate(kills):
        phase = killed(program, argv, folder / "run", folder / f"notes-{number}", kill)
        phases += [phase] if phase else []
        for checkpoint in complete_checkpoints(folder / "run"):
            assert (checkpoint / "arguments.json").is_file()
    finish(program, argv, folder / "run", folder / "notes")
    assert_same_run(folder / "run", expected)
    return phases


@pytest.mark.parametrize("phase", tiered(["save", "sampling", "update"], quick=["save"], daily=["sampling"]))
def test_a_moment_of_each_kind(phase, command, uninterrupted, tmp_path):
    """What the long test below does many times, once."""
    expected, events = uninterrupted(PPO)
    kill = Kill(events // 2, phase)
    # A process that is seen in a phase may have left it when the signal comes.
    for attempt in ("first", "second", "third"):
        folder = tmp_path / attempt
        if survive(PPO, command(PPO, folder / "run"), folder, expected, [kill]) == [phase]:
            return
    pytest.fail(f"killed three times, never in {phase}")


@pytest.mark.parametrize("program", tiered([PPO, REWARD], quick=[PPO], daily=[]))
def test_after_the_last_step_no_further_one_is_made(program, command, uninterrupted, tmp_path):
    """All steps are done and saved; the result is not yet marked as whole."""
    expected, _ = uninterrupted(program)
    kill = Kill("finished.json.tmp")
    assert survive(program, command(program, tmp_path / "run"), tmp_path, expected, [kill])


@pytest.mark.parametrize(
    ("program", "points"), tiered([(PPO, 12), (REWARD, 6), (POLICY_INIT, 6)], daily=[(REWARD, 6)])
)
def test_random_moments(program, points, command, uninterrupted, tmp_path):
    """Every third run is killed again while it continues. `KILL_TIMES` times as many; `KILL_REPORT` gets the counts."""
    points *= int(os.environ.get("KILL_TIMES", "1"))
    each = max(1, points // 12)  # kills of every phase
    expected, events = uninterrupted(program)
    phases = ["sampling", "update", "save"] if program == PPO else ["update", "save"]
    kills = random_kills(2309, events, phases)
    survived: Counter[str] = Counter()
    run = 0
    # On a busy machine a kill may come too late for its phase: more runs, until each phase was hit.
    while survived.total() < points or (
        survived.total() < 3 * points and min(survived[phase] for phase in phases) < each
    ):
        folder = tmp_path / str(run)
        planned = list(islice(kills, 2 if run % 3 == 2 else 1))
        survived.update(survive(program, command(program, folder / "run"), folder, expected, planned))
        run += 1
    assert min(survived[phase] for phase in phases) >= each
    if "KILL_REPORT" in os.environ:
        with open(os.environ["KILL_REPORT"], "a") as report:
            report.write(json.dumps({"program": program, "runs": run, "survived": survived}) + "\n")
