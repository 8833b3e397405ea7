"""Real vLLM servers. Tests of this folder are slow, and skipped where scripts/setup_vllm.sh has not installed one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.vllm_server import VLLMServer, new_server


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory) -> Iterator[VLLMServer]:
    """The server of the tiny base that all tests of a process share; adapters that a test loads have names of its own.

    Not of all processes: tests look at what is left on it.
    """
    # Of xdist's processes the one that started them ends last.
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    server = new_server(tmp_path_factory.getbasetemp()).start(owner)
    yield server
    server.kill()


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
