"""A run goes on with another number of processes: the same global batches, equal up to rounding, not bit for bit."""

from __future__ import annotations

import shutil

import pytest
from torch.testing import assert_close

from tests.distributed.comparing import weights_in
from tests.reliability.forked import POLICY_INIT, PPO, REWARD, finish
from tests.support.tiers import tiered

pytestmark = pytest.mark.distributed

EVERY_STEP = {"save_total_limit": 0}


def layout(program: str, world_size: int) -> dict[str, object]:
    """Batch sizes of one process that give the same global batch."""
    if program == PPO:
        return {**EVERY_STEP}
    # Which numbers dropout draws depends on the process, so there is none.
    return {**EVERY_STEP, "per_device_train_batch_size": 4 // world_size, "lora_dropout": 0.0}


@pytest.mark.parametrize(
    ("program", "before", "after"),
    tiered(
        [(program, *change) for program in (PPO, REWARD, POLICY_INIT) for change in ((1, 2), (2, 1))],
        daily=[(PPO, 1, 2), (REWARD, 2, 1)],
    ),
)
def test_other_processes(program, before, after, command, uninterrupted, tmp_path):
    expected, _ = uninterrupted(program, before, **layout(program, before))
    folder = tmp_path / "run"
    shutil.copytree(expected / "checkpoint-2", folder / "checkpoint-2")
    run = finish(
        program, command(program, folder, **layout(program, after)), folder, tmp_path / "notes", after
    )
    assert f"processes: then {before}, now {after}" in run.output()
    first, second = weights_in(expected), weights_in(folder)
    names = [name for name in first if not name.startswith("checkpoint-")]
    assert names
    for name in names:
        assert_close(second[name], first[name], rtol=1e-3, atol=1e-5)
