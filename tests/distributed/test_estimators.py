"""Every estimator of advantages in one process, two and four, under ZeRO-2, and resumed: groups are whole everywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.comparing import assert_same_metrics, assert_same_roles, metrics_of
from tests.distributed.launching import ROOT
from tests.distributed.processes import PPO, run_in_processes
from tests.reliability.same_runs import content, files_of
from tests.support.tiers import tiered
from tests.support.tiny_data import ppo_command

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ESTIMATORS = {
    "gae": {"normalize_returns": True, "samples_per_prompt": 2, "lam": 0.9},
    "rloo": {"samples_per_prompt": 4},
    "grpo": {"samples_per_prompt": 8},
    "reinforce": {"samples_per_prompt": 2, "gamma": 0.95},
}
STEPS = {
    "rollout_batch_size": 16,
    "step_batch_size": 8,
    "noptepochs": 2,
    "max_steps": 2,
    "response_len": 16,
    "max_grad_norm": 1e9,
}

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_base, data, policy_folder, reward_folder) -> Run:
    """(estimator, processes, backend) → run folder of two steps; each combination runs once."""
    root = tmp_path_factory.mktemp("estimators")

    def once(estimator: str, processes: int, backend: str = "ddp", resumed: bool = False) -> Path:
        folder = root / f"{estimator}-{processes}-{backend}{'-resumed' if resumed else ''}"
        if folder.exists():
            return folder
        if resumed:
            whole = once(estimator, processes, backend)
            shutil.copytree(whole / "checkpoint-1", folder / "checkpoint-1")
            shutil.copy(whole / "metrics.jsonl", folder)
        settings = STEPS | {"advantage_estimator": estimator, **ESTIMATORS[estimator]}
        # Micro-batches of every size: four rows, two, one.
        settings |= {"rollout_per_device_batch_size": 4, "step_per_device_batch_size": 4 // processes}
        if backend != "ddp":
            settings["deepspeed"] = ROOT / "scripts" / f"{backend}.json"
        argv = ppo_command(data, tiny_base, policy_folder, reward_folder, folder, **settings)
        run_in_processes(PPO, argv, processes, folder)
        return folder

    return once


@pytest.mark.parametrize(
    ("estimator", "processes", "backend"),
    tiered(
        [(name, *kind) for name in ESTIMATORS for kind in ((2, "ddp"), (4, "ddp"), (2, "zero2"))],
        daily=[("rloo", 4, "ddp"), ("gae", 2, "zero2")],
    ),
)
def test_several_processes_are_as_one(run, estimator, processes, backend):
    one, several = run(estimator, 1), run(estimator, processes, backend)
    assert_same_roles(one, several)
    for step in (1, 2):
        first, second = (metrics_of(folder, step) for folder in (one, several))
        assert 0 <= first["ppo/groups/without_spread"] < 1, "groups without any spread test nothing"
        if backend != "ddp":  # an engine knows the norm of all weights only
            first, second = (
                {name: value for name, value in line.items() if "grad_norm" not in name}
                for line in (first, second)
            )
        # Advantages of rloo lie around 100, and the loss is the small difference of many of them.
        loss = first.pop("ppo/loss/policy")
        assert second.pop("ppo/loss/policy") == pytest.approx(loss, abs=1e-4)
        assert_same_metrics(first, second)


@pytest.mark.parametrize(
    ("estimator", "backend"),
    tiered(
        [(name, backend) for name in ESTIMATORS for backend in ("ddp", "zero2")],
        daily=[("grpo", "ddp")],
    ),
)
def test_a_resumed_run_is_the_same_bit_for_bit(run, estimator, backend):
    whole, resumed = (run(estimator, 2, backend, resumed=again) for again in (False, True))
    assert metrics_of(resumed, 2) == metrics_of(whole, 2)
    if backend == "zero2":  # its own files are pickles, with the time in their archive
        assert_same_roles(whole / "checkpoint-2", resumed / "checkpoint-2")
        return
    ours, theirs = (files_of(folder / "checkpoint-2") for folder in (resumed, whole))
    assert ours.keys() == theirs.keys() and len(ours) > 3
    assert [name for name in sorted(ours) if content(ours[name]) != content(theirs[name])] == []
