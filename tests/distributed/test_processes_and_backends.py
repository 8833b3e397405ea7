"""The same training in 1, 2 and 4 processes, with DDP, ZeRO-2 and ZeRO-3: one trajectory.

Conditions: responses of unequal length, rows that are no multiple of a step (so that an epoch ends with an incomplete
one), two accumulated batches a step, two epochs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.comparing import supervised_tokens, weights_in
from tests.distributed.launching import ROOT, start
from tests.distributed.processes import POLICY_INIT, PPO, REWARD, free_port, run_in_processes
from tests.support.tiers import tiered
from tests.support.tiny_data import changed, policy_command, ppo_command, reward_command

pytestmark = pytest.mark.distributed

ROWS = 13  # steps of 8: an epoch is 8 rows and 5
TOLERANCE = 1e-5
TRAINER = {"max_steps": -1, "num_train_epochs": 2, "learning_rate": 1e-3, "save_strategy": "no"}
PPO_STEPS = {
    "rollout_batch_size": 8,
    "step_batch_size": 8,
    "noptepochs": 2,
    "max_steps": -1,
    "total_epochs": 4,
    "response_len": 24,
    "save_steps": 100,
}
ENGINES = {POLICY_INIT: ("zero2", "zero3"), REWARD: ("zero2", "zero3"), PPO: ("zero2",)}
CLOCK = ("time/", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")


@pytest.fixture(scope="module")
def thirteen(data):
    """The files with 13 rows each."""
    return data.__class__(
        **{
            **vars(data),
            **{
                name: changed(getattr(data, name), f"thirteen_{name}.json", lambda rows: rows[:ROWS])
                for name in ("preferences", "dialogues", "prompts")
            },
        }
    )


@pytest.fixture(scope="module")
def command(thirteen, tiny_base, policy_folder, reward_folder) -> Callable[..., list[str]]:
    """(program, processes, backend, run folder) → flags; the global batch is always the same, and so is the accumulation."""

    def flags(program: str, processes: int, backend: str, folder: Path) -> list[str]:
        engine = {} if backend == "ddp" else {"deepspeed": ROOT / "scripts" / f"{backend}.json"}
        share = 4 // processes
        if program == PPO:
            sizes = {"rollout_per_device_batch_size": 2 * share, "step_per_device_batch_size": share}
            return ppo_command(
                thirteen, tiny_base, policy_folder, reward_folder, folder, **PPO_STEPS, **sizes, **engine
            )
        make = policy_command if program == POLICY_INIT else reward_command
        sizes = {"per_device_train_batch_size": share, "gradient_accumulation_steps": 2}
        return make(thirteen, tiny_base, folder, **TRAINER, **sizes, **engine)

    return flags


@pytest.fixture(scope="module")
def run(tmp_path_factory, command):
    """(program, processes, backend) → run folder; each combination runs once."""
    root = tmp_path_factory.mktemp("processes")

    def once(program: str, processes: int, backend: str = "ddp") -> Path:
        folder = root / f"{program}-{processes}-{backend}"
        if not folder.exists():
            run_in_processes(program, command(program, processes, backend, folder), processes, folder)
        return folder

    return once


def lines(folder: Path) -> list[dict[str, float]]:
    """`metrics.jsonl` without what depends on the clock."""
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(CLOCK)}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def largest_difference(one: Path, other: Path) -> tuple[float, float]:
    """Of any trained weight, and of any metric of any step relative to max(1, its size); names must agree."""
    first, second = weights_in(one), weights_in(other)
    assert first.keys() == second.keys()
    weights = max(
        float((first[file][name] - second[file][name]).abs().max()) for file in first for name in first[file]
    )
    steps = list(zip(lines(one), lines(other), strict=True))
    assert len(steps) > 3
    metrics = 0.0
    for line, same in steps:
        names = (line.keys() & same.keys()) - {"ppo/loss/grad_norm_policy", "ppo/loss/grad_norm_value"}
        assert {"loss", "objective/rewards", "train_loss"} & names
        metrics = max(metrics, *(abs(line[name] - same[name]) / max(1.0, abs(line[name])) for name in names))
    return weights, metrics


def assert_same(one: Path, other: Path, what: str) -> None:
    """Both differences within the tolerance; with PROCESSES_REPORT set, they are appended to that file."""
    weights, metrics = largest_difference(one, other)
    if "PROCESSES_REPORT" in os.environ:
        with Path(os.environ["PROCESSES_REPORT"]).open("a") as report:
            report.write(f"| {what} | {weights:.1e} | {metrics:.1e} |\n")
    assert weights <= TOLERANCE and metrics <= TOLERANCE, (weights, metrics)


def test_the_conditions_hold(thirteen):
    """What makes the tests below able to fail."""
    counts = supervised_tokens(thirteen.dialogues)
    assert len(set(counts)) > 1 and len(counts) == ROWS and ROWS % 8


@pytest.mark.parametrize(
    ("program", "processes"),
    tiered(
        [(POLICY_INIT, 2), (POLICY_INIT, 4), (REWARD, 2), (REWARD, 4)],
        daily=[(POLICY_INIT, 4), (REWARD, 2)],
    ),
)
def test_an_incomplete_step_is_the_same_in_several_processes(run, program, processes):
    assert_same(run(program, 1), run(program, processes), f"{program} | {processes} × ddp")


@pytest.mark.parametrize("processes", tiered([2, 4], daily=[4]))
def test_ppo_is_the_same_in_several_processes(run, processes):
    assert_same(run(PPO, 1), run(PPO, processes), f"{PPO} | {processes} × ddp")


@pytest.mark.parametrize(
    ("program", "backend", "processes"),
    tiered(
        [
            (program, backend, processes)
            for program, backends in ENGINES.items()
            for backend in backends
            for processes in (2, 4)
        ],
        daily=[(POLICY_INIT, "zero3", 2), (PPO, "zero2", 4)],
    ),
)
def test_deepspeed_is_the_same_as_one_process(run, program, backend, processes):
    assert_same(run(program, 1), run(program, processes, backend), f"{program} | {processes} × {backend}")


@pytest.mark.parametrize(
    ("program", "launcher"),
    tiered(
        [(POLICY_INIT, "torchrun"), (REWARD, "torchrun"), (PPO, "torchrun"), (PPO, "deepspeed")],
        daily=[(PPO, "deepspeed")],
    ),
)
def test_two_nodes_are_the_same_as_two_processes(run, command, tmp_path, program, launcher):
    """Two launches of one process, which meet at a loopback address, as on two machines."""
    argv = command(program, 2, "ddp", tmp_path)
    meeting = {
        "LAUNCHER": launcher,
        "NNODES": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    nodes = [start(program, argv, NODE_RANK=str(rank), **meeting) for rank in range(2)]
    said = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert_same(run(program, 2), tmp_path, f"{program} | 2 nodes × ddp, {launcher}")
