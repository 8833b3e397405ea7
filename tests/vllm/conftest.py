"""Real vLLM servers. Tests of this folder are slow, and skipped where scripts/setup_vllm.sh has not installed one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.vllm_server import VLLMServer, new_server, shared_server


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory) -> VLLMServer:
    """The server of the tiny base that all tests of a run share; adapters that a test loads have names of its own."""
    folder = tmp_path_factory.getbasetemp()
    return shared_server(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


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
