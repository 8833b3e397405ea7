"""Real vLLM servers. Tests of this folder are slow, and skipped where scripts/setup_vllm.sh has not installed one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ppo_world import run_ppo
from tests.support.vllm_server import TINY_BASE, VLLMServer, new_server
from tests.vllm.served_world import ServedWorld, make_world

STEPS = {"max_steps": 3, "save_steps": 3}


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory) -> Iterator[VLLMServer]:
    """The server of the tiny base that all tests of a process share; adapters that a test loads have names of its own.

    Not of all processes: tests look at what is left on it.
    """
    # Of xdist's processes the one that started them ends last.
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    # With paths that vLLM calls those of development, among them /sleep.
    server = new_server(tmp_path_factory.getbasetemp(), VLLM_SERVER_DEV_MODE="1").start(owner)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> ServedWorld:
    """On the base that the shared server serves."""
    return make_world(tmp_path_factory.mktemp("served"), TINY_BASE)


@pytest.fixture(scope="session")
def whole_run(world, vllm_server, tmp_path_factory) -> Path:
    """Three steps that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_ppo(world.command(folder, vllm_server.url, **STEPS))
    return folder


@pytest.fixture
def start_vllm(tmp_path) -> Iterator[Callable[..., VLLMServer]]:
    """Starts servers of the test's own (`BASE_MODEL=…` and other variables of the script), which end with it."""
    started: list[VLLMServer] = []

    def start(folder: Path = tmp_path, **variables: str) -> VLLMServer:
        started.append(new_server(folder, **variables))
        return started[-1].start()

    yield start
    for server in started:
        server.kill()
