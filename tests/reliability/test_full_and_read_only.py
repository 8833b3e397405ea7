"""A file system that takes nothing more: one clear message, status 1, older checkpoints intact; later the run goes on."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess

import pytest

from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from tests.reliability.forked import POLICY_INIT, PPO, REWARD, Kill, finish, start
from tests.reliability.same_runs import assert_same_run

LARGEST_FILE = 60_000  # bytes: below an optimizer's state, above everything else but adapters


def files_stay_small() -> None:
    """The kernel refuses larger files (EFBIG), as a full disk does in the middle of one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


def no_privileges() -> None:
    """Even root has to obey the permissions of files from here on (capset to the empty set; version 3 of its header)."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, nothing) == 0


def half_done(program, command, uninterrupted, folder):
    """A run killed in the middle, with its newest complete step."""
    expected, events = uninterrupted(program)
    argv = command(program, folder / "run")
    run = start(program, argv, folder / "run", folder / "notes-0", kill=Kill(events // 2, "update"))
    run.exit_codes()
    step = step_of(complete_checkpoints(folder / "run")[-1])
    assert step > 0
    return argv, expected, step


def refused(program, argv, folder, prepare, status=1) -> str:
    """Continue where nothing can be saved; returns the one message."""
    run = start(program, argv, folder / "run", folder / "notes-1", prepare=prepare)
    assert run.exit_codes() == [status], run.output()
    assert "Traceback" not in run.output()
    (message,) = [line for line in run.output().splitlines() if line.startswith("error: ")]
    return message


@pytest.mark.slow
@pytest.mark.parametrize("program", [PPO, REWARD])
def test_a_checkpoint_that_does_not_fit(program, command, uninterrupted, tmp_path):
    argv, expected, step = half_done(program, command, uninterrupted, tmp_path)
    message = refused(program, argv, tmp_path, files_stay_small)
    assert f"the checkpoint checkpoint-{step + 1} could not be written to {tmp_path / 'run'}" in message
    assert "File too large" in message and "free." in message
    assert f"checkpoint-{step} takes" in message and "start the same command again" in message
    assert step_of(complete_checkpoints(tmp_path / "run")[-1]) == step
    assert not (tmp_path / "run" / ".incomplete").exists()
    finish(program, argv, tmp_path / "run", tmp_path / "notes")
    assert_same_run(tmp_path / "run", expected)


def test_a_folder_that_became_read_only(command, uninterrupted, tmp_path):
    argv, expected, step = half_done(POLICY_INIT, command, uninterrupted, tmp_path)
    run = tmp_path / "run"
    os.chmod(run, 0o555)
    try:
        message = refused(POLICY_INIT, argv, tmp_path, no_privileges, status=2)  # before anything is loaded
    finally:
        os.chmod(run, 0o755)
    assert "Permission denied" in message and str(run) in message and "name another place" in message
    assert step_of(complete_checkpoints(run)[-1]) == step
    finish(POLICY_INIT, argv, run, tmp_path / "notes")
    assert_same_run(run, expected)


def test_a_full_disk(command, uninterrupted, tmp_path):
    """A real one: a file system in memory of so many bytes that a second checkpoint does not fit."""
    expected, _ = uninterrupted(PPO)
    size = sum(path.stat().st_size for path in (expected / "checkpoint-4").rglob("*"))
    disk = tmp_path / "run"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={2 * size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        message = refused(PPO, command(PPO, disk), tmp_path, None)
        assert "No space left on device" in message and "checkpoint-1 takes" in message
        assert [step_of(folder) for folder in complete_checkpoints(disk)] == [1]
        subprocess.run(["mount", "-o", f"remount,size={9 * size}", str(disk)], check=True)
        finish(PPO, command(PPO, disk), disk, tmp_path / "notes")
        assert_same_run(disk, expected)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
