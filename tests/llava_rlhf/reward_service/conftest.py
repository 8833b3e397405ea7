"""One service in this process, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support.reward_service import service_command, service_here


@pytest.fixture(scope="session")
def service(tiny_data, reward_run) -> TestClient:
    with service_here(service_command(tiny_data, reward_run, batch_size=8)) as client:
        yield client


@pytest.fixture(scope="session")
def picture_files(tiny_data) -> dict[str, Path]:
    """Name → file, of the image folder."""
    return {path.name: path for path in tiny_data.images.iterdir()}
