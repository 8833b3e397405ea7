"""SIGTERM and SIGINT: the run saves and stops, at the same step on every process, and continues bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from tests.reliability.forked import POLICY_INIT, PPO, REWARD, Kill, finish, start
from tests.reliability.same_runs import assert_same_run
from tests.support.tiers import tiered

ROOT = Path(__file__).parents[2]
ONLY_THE_LAST = {"save_steps": 100}
FIRST_METRICS = (
    "metrics.jsonl"  # of step 1 (PPO) or 2: the signal comes in the next step, which is not the last
)


def stopped(program, argv, folder: Path, world_size: int, kill: Kill) -> str:
    """Run until the signal, which process 0 alone gets; returns what it was doing."""
    run = start(program, argv, folder / "run", folder / "notes-0", world_size, kill)
    assert run.exit_codes() == [128 + kill.number] * world_size, run.output()
    assert signal.Signals(kill.number).name in run.output()
    return run.phase()


@pytest.mark.distributed
@pytest.mark.parametrize("program", tiered([PPO, REWARD, POLICY_INIT], quick=[PPO], daily=[REWARD]))
def test_two_processes_stop_at_one_step_and_go_on_with_data_loader_workers(
    program, command, uninterrupted, tmp_path
):
    half = {} if program == PPO else {"per_device_train_batch_size": 2}
    expected, _ = uninterrupted(program, 2, **half, **ONLY_THE_LAST)
    argv = command(program, tmp_path / "run", **half, **ONLY_THE_LAST)
    kill = Kill(FIRST_METRICS, "update", number=signal.SIGTERM)
    stopped(program, argv, tmp_path, 2, kill)
    (checkpoint,) = complete_checkpoints(tmp_path / "run")
    assert 0 < step_of(checkpoint) < (4 if program == PPO else 5)
    assert len(list(checkpoint.glob("random_*" if program == PPO else "process_*"))) == 2
    finish(program, [*argv, "--dataloader_num_workers", "1"], tmp_path / "run", tmp_path / "notes", 2)
    assert_same_run(tmp_path / "run", expected, checkpoints=False)


@pytest.mark.parametrize("number", tiered([signal.SIGTERM, signal.SIGINT], quick=[signal.SIGTERM], daily=[]))
def test_while_ppo_samples_the_state_before_the_step_is_saved(number, command, uninterrupted, tmp_path):
    expected, _ = uninterrupted(PPO, **ONLY_THE_LAST)
    argv = command(PPO, tmp_path / "run", **ONLY_THE_LAST)
    assert stopped(PPO, argv, tmp_path, 1, Kill(FIRST_METRICS, "sampling", number=number)) == "sampling"
    (checkpoint,) = complete_checkpoints(tmp_path / "run")
    steps_done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert step_of(checkpoint) == steps_done > 0
    finish(PPO, argv, tmp_path / "run", tmp_path / "notes")
    assert_same_run(tmp_path / "run", expected, checkpoints=False)


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_written_waits_for_it(command, uninterrupted, tmp_path):
    longer = {"max_steps": 12, "save_steps": 2}  # steps are left when the signal is seen
    expected, events = uninterrupted(REWARD, **longer)
    argv = command(REWARD, tmp_path / "run", **longer)
    stopped(REWARD, argv, tmp_path, 1, Kill(events // 2, "save", number=signal.SIGTERM))
    finish(REWARD, argv, tmp_path / "run", tmp_path / "notes")
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.distributed
@pytest.mark.parametrize("program", tiered([PPO, REWARD], daily=[REWARD]))
def test_a_launcher_that_gets_the_signal(program, command, uninterrupted, tmp_path):
    """torchrun passes SIGTERM on to its whole process groups: the data loader's workers get it too."""
    half = {} if program == PPO else {"per_device_train_batch_size": 2}
    many = {"max_steps": 200, **half, **ONLY_THE_LAST}
    if program == PPO:
        many["total_epochs"] = 200
    argv = [*command(program, tmp_path / "run", **many), "--dataloader_num_workers", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [*torchrun, "--nproc-per-node", "2", "-m", program, *argv],
            env=environment,
            stdout=output,
            stderr=output,
        )
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text().count("\n") > 2):
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=60) != 0
    printed = (tmp_path / "output").read_text()
    assert "is killed by signal" not in printed, "a worker died"
    (checkpoint,) = complete_checkpoints(tmp_path / "run")
    assert 2 <= step_of(checkpoint) < 200
