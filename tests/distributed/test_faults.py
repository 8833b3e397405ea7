"""One of two processes fails or hangs in the middle of a step: all end, and what is printed says why."""

from __future__ import annotations

import re
import time

import pytest

from llava_rlhf.runs.watchdog import HANG_EXIT_CODE
from tests.distributed.faulty import MESSAGE
from tests.distributed.launching import launch
from tests.distributed.processes import POLICY_INIT, PPO, REWARD, run_in_processes
from tests.support.tiers import tiered
from tests.support.tiny_data import policy_command, ppo_command, reward_command

pytestmark = pytest.mark.distributed

FAULTY = "tests.distributed.faulty"
TIMEOUT_S = 12  # of a collective; the first process plans the memory while others wait for it


def command(program, data, tiny_base, folder, ppo_start, fault, **changes):
    if program == PPO:
        argv = ppo_command(data, tiny_base, *ppo_start, folder, step_per_device_batch_size=2, **changes)
    else:
        make = policy_command if program == POLICY_INIT else reward_command
        argv = make(data, tiny_base, folder, per_device_train_batch_size=2, **changes)
    return [fault, "1", program, *argv]


def hang(program, fault, tmp_path, tiny_base, data, ppo_start=None) -> str:
    """What both processes say when one of two hangs."""
    argv = command(program, data, tiny_base, tmp_path, ppo_start, fault, ddp_timeout=TIMEOUT_S)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=str(HANG_EXIT_CODE)):
        run_in_processes(FAULTY, argv, 2, tmp_path)
    assert time.monotonic() - began < 60
    return "".join((tmp_path / "logs" / f"output-{rank}.txt").read_text() for rank in range(2))


def test_a_process_that_sleeps_is_named_and_ends_all(tmp_path, tiny_base, data):
    said = hang(REWARD, "sleep", tmp_path, tiny_base, data)
    where = {0: "llava_rlhf/supervised/reward_trainer.py:", 1: "tests/distributed/faulty.py:"}
    for rank, place in where.items():
        assert re.search(rf"rank {rank} has been in 'training, step 2' for \d+ s: {place}\d+ ", said)
    assert "is stopped or gone" not in said


@pytest.mark.slow
def test_a_process_that_is_stopped_is_named_and_ends_all(
    tmp_path, tiny_base, data, policy_folder, reward_folder
):
    said = hang(PPO, "stop", tmp_path, tiny_base, data, (policy_folder, reward_folder))
    # What it last told, which may be a moment older than its end.
    assert re.search(r"rank 1 has been in '.+' for .*; it is stopped or gone", said)
    assert re.search(
        r"rank 0 has been in 'update, step 1' for \d+ s: llava_rlhf/ppo/gradients.py:\d+ .*all_reduce", said
    )


@pytest.mark.parametrize("program", tiered([POLICY_INIT, PPO], daily=[PPO]))
def test_the_traceback_of_the_process_that_fails_comes_first(
    program, tmp_path, tiny_base, data, policy_folder, reward_folder
):
    argv = command(program, data, tiny_base, tmp_path, (policy_folder, reward_folder), "raise")
    code, said = launch(FAULTY, argv, NUM_PROCESSES="2")
    assert code != 0
    tracebacks = [match.start() for match in re.finditer("Traceback", said)]
    failure = re.search(rf"^\[rank1\]: OSError: {MESSAGE}$", said, re.MULTILINE)
    assert "[rank1]: Traceback" in said[tracebacks[0] - 10 : tracebacks[0] + 10]
    # Between them nothing but that traceback; the other process has none of its own.
    between = said[tracebacks[0] : failure.start()].splitlines()[1:]
    assert all(line.startswith("[rank1]: ") for line in between if line)
    assert "[rank0]: Traceback" not in said
    assert re.search(rf"^rank 0 stops in '.+': rank 1 failed with OSError: {MESSAGE}$", said, re.MULTILINE)
    # torchrun's own summary ends with it too.
    assert MESSAGE in said[said.index("Root Cause") :]


@pytest.mark.parametrize("program", tiered([POLICY_INIT, REWARD, PPO], daily=[PPO]))
def test_all_have_ended_within_a_minute_of_a_failure(
    program, tmp_path, tiny_base, data, policy_folder, reward_folder
):
    """Without a launcher that would end the other process: it sees the failure itself."""
    argv = command(program, data, tiny_base, tmp_path, (policy_folder, reward_folder), "raise")
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=MESSAGE):
        run_in_processes(FAULTY, argv, 2, tmp_path, stop_at_failure=False, timeout_s=120)
    assert time.monotonic() - began < 60
    assert MESSAGE in (tmp_path / "logs" / "output-0.txt").read_text()


@pytest.mark.nightly
def test_a_hang_under_torchrun(tmp_path, tiny_base, data):
    argv = command(POLICY_INIT, data, tiny_base, tmp_path, None, "sleep", ddp_timeout=TIMEOUT_S)
    code, said = launch(FAULTY, argv, NUM_PROCESSES="2")
    assert code != 0 and re.search(rf"exitcode +: {HANG_EXIT_CODE}", said)
    assert re.search(r"^rank 1 has been in 'training, step 2' for .*faulty.py:\d+ happen", said, re.MULTILINE)
