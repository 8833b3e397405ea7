"""One bank and one saved adapter for tests that change no weight."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.adapters import AdapterBank
from tests.models.tiny_banks import build_bank


@pytest.fixture(scope="session")
def shared_bank(tiny_base) -> AdapterBank:
    """Adapters policy, value, reference; read-only: tests share it."""
    return build_bank(tiny_base)


@pytest.fixture(scope="session")
def saved(shared_bank, tmp_path_factory) -> Path:
    """The policy of `shared_bank` as a PEFT folder."""
    folder = tmp_path_factory.mktemp("saved") / "policy"
    shared_bank.save("policy", folder, base_model="tiny/base")
    return folder
