"""An engine that samples otherwise than the model that trains, weighed against: one process, two, and DeepSpeed."""

from __future__ import annotations

import pytest

from tests.distributed.comparing import assert_same_metrics, assert_same_roles, metrics_of
from tests.distributed.launching import ROOT
from tests.distributed.processes import run_in_processes
from tests.support.tiny_data import ppo_command

PROGRAM = "tests.support.off_policy"
WARMTH, CAP = 1.4, 1.2
STEP = {
    "rollout_batch_size": 8,
    "step_batch_size": 8,
    "noptepochs": 2,
    "max_steps": 1,
    "response_len": 24,
    "temperature": 0.7,
    "max_grad_norm": 1e9,
    "step_per_device_batch_size": 2,
}


@pytest.mark.distributed
@pytest.mark.slow
def test_weights_against_it_are_the_same_everywhere(tmp_path, tiny_base, data, policy_folder, reward_folder):
    """Processes have answers of other widths, whose numbers are joined for one percentile."""
    engine = {"deepspeed": ROOT / "scripts" / "zero2.json"}
    kinds = {"1": (1, {}), "2": (2, {}), "zero2": (2, engine)}
    for name, (processes, settings) in kinds.items():
        folder = tmp_path / name
        flags = ppo_command(data, tiny_base, policy_folder, reward_folder, folder, **STEP, **settings)
        argv = [str(WARMTH), "truncated", str(CAP), *flags]
        run_in_processes(PROGRAM, argv, processes, folder)
    one, two, deepspeed = (metrics_of(tmp_path / name, 1) for name in kinds)
    assert_same_roles(tmp_path / "1", tmp_path / "2")
    assert_same_metrics(one, two)
    assert 0 < one["engine/weight_capped"] < 1 and one["engine/difference_p99"] > 0.1
    assert_same_roles(tmp_path / "1", tmp_path / "zero2")
    ours, theirs = (
        {name: value for name, value in line.items() if "grad_norm" not in name} for line in (one, deepspeed)
    )
    assert_same_metrics(ours, theirs)
