"""What the Hugging Face Hub does not give, against one on this machine."""

from __future__ import annotations

import re

import pytest

from tests.errors.documented import documented
from tests.support.hub_fetching import fetch, hub  # noqa: F401
from tests.support.hub_server import HubServer

WEIGHTS = {"config.json": b"{}", "model.safetensors": b"w"}
OFFLINE = {"HF_HUB_OFFLINE": "1"}
NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9"}
# case → flag, its value, environment, what the repository me/x answers instead
CASES = {
    "offline": ("base_model_name", "me/x", OFFLINE, None),
    "data-offline": ("dataset_path", "me/rows/b.json", OFFLINE, None),
    "no-network": ("adapter", "me/x", NOWHERE, None),
    "unknown": ("reward_model_name_or_path", "me/y", {}, None),
    "gated": ("base_model_name", "me/x", {}, (403, "GatedRepo")),
    "forbidden": ("base_model_name", "me/x", {}, (403, "")),
    "revision": ("model_name_or_path", "me/x@v9", {}, None),
    "folder": ("adapter", "me/x/lora", {}, None),
    "pickles": ("base_model_name", "me/old", {}, None),
    "no-weights": ("adapter", "me/cards", {}, None),
    "several-files": ("dataset_path", "me/rows", {}, None),
    "no-such-file": ("dataset_path", "me/rows/c.json", {}, None),
    "no-files": ("dataset_path", "me/empty", {}, None),
    "broken-table": ("dataset_path", "me/table", {}, None),
}


def fill(server: HubServer) -> None:
    server.add("me/x", WEIGHTS)
    server.add("me/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    server.add("me/cards", {"config.json": b"{}"})
    server.add("me/rows", {"a.json": b"[]", "b.json": b"[]"}, "dataset")
    server.add("me/empty", {"README.md": b""}, "dataset")
    server.add("me/table", {"rows.parquet": b"PAR1"}, "dataset")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, hub, fetch):  # noqa: F811
    row = documented(__file__, case)
    flag, value, environment, answer = CASES[case]
    fill(hub)
    if answer is not None:
        hub.refused["me/x"] = answer
    told = fetch(**{flag: value}, environment=environment)
    assert isinstance(told, str) and told.startswith(f"--{flag} {value}: "), told
    assert re.search(row.pattern, told), told
    assert row.skipped == "–" and "Traceback" not in fetch.shown
