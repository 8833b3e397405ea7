"""A hub on this machine, and the programs' step that downloads from it, in a process of its own.

A process of its own, because `huggingface_hub` reads HF_ENDPOINT and HF_HOME when it is loaded. Downloads are as on the real
Hub but for Xet: this hub sends plain files. Uploads switch Xet off (HF_HUB_DISABLE_XET): it speaks to a store of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]
FETCH = """
import json, sys
from llava_rlhf.hub.flags import fetch_flags
flags, recorded, configurations = json.load(sys.stdin)
try:
    fetch_flags(flags, recorded, configurations)
except ValueError as error:
    flags = str(error)
print(json.dumps([flags, sorted({"torch", "transformers", "datasets"} & set(sys.modules))]))
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def fetch(hub, tmp_path) -> Callable:
    """Flags → the same with paths, or the message of the refusal; `environment` is set besides."""

    def run(
        recorded: dict | None = None,
        environment: dict | None = None,
        configurations: bool = False,
        **flags: object,
    ) -> dict | str:
        done = subprocess.run(
            [sys.executable, "-c", FETCH],
            input=json.dumps([flags, recorded or {}, configurations]),
            cwd=tmp_path,
            env=hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT), **(environment or {})),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found, loaded = json.loads(done.stdout)
        assert "torch" not in loaded and "transformers" not in loaded
        run.shown = done.stderr
        return found

    return run
