"""Servers of tests end with the tests; shown with shells that sleep, no vLLM is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.vllm_server import WATCHER


@pytest.fixture
def group():
    """A process group of a shell and its child."""
    process = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60; true"], start_new_session=True)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_group_is_killed_once_its_owner_is(group):
    owner = subprocess.Popen(["sleep", "60"])
    watcher = subprocess.Popen([sys.executable, "-S", "-c", WATCHER, str(owner.pid), str(group.pid)])
    time.sleep(1.5)
    assert group.poll() is None and watcher.poll() is None
    owner.kill()
    owner.wait()
    assert group.wait(10) == -signal.SIGKILL and watcher.wait(10) == 0


def test_the_watcher_goes_when_the_group_has_ended(group):
    watcher = subprocess.Popen([sys.executable, "-S", "-c", WATCHER, str(os.getpid()), str(group.pid)])
    os.killpg(group.pid, signal.SIGKILL)
    group.wait()
    assert watcher.wait(10) == 0
