"""What a reward service can't be started with; refused by `prepare`, which never loads a model."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator

import pytest

from llava_rlhf.serve_reward import prepare
from tests.errors.documented import documented
from tests.support.reward_models import edit_card
from tests.support.tiny_data import command_line
from tests.support.vllm_server import free_port

CASES = {
    "service-without-key": {"host": "0.0.0.0"},
    "service-port-taken": None,
    "service-without-model": {"reward_model": "/nowhere"},
    "service-other-prompt": None,
    "no-image-folder": {"image_folders": ["/nowhere"]},
    "no-caption-map": {"image_to_caption_file": "/nowhere.json"},
    "bad-caption-map": None,
    "unread-captions": None,
    "skipped-captions": {"missing_captions": "skip"},
    "queue-below-rows": {"max_rows": 64, "max_queued_rows": 32},
    "queue-below-bytes": {"max_request_bytes": 2000, "max_queued_bytes": 1000},
    "no-connections": {"max_connections": 0},
    "empty-end": {"answer_ends": [""]},
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("case", CASES)
def test_documented(case, reward_folder, unloadable_base, data, taken_port, tmp_path, monkeypatch):
    monkeypatch.delenv("REWARD_API_KEY", raising=False)
    fine = {"reward_model": reward_folder, "base_model_name": unloadable_base, "port": free_port()}
    fine |= {"image_folders": [data.images], "image_to_caption_file": data.captions}
    assert prepare(command_line(**fine)).rules.prompt.uses_facts
    said = CASES[case] or {}
    if case == "service-port-taken":
        said = {"port": taken_port}
    elif case == "bad-caption-map":
        (tmp_path / "captions.json").write_text(json.dumps({"a.png": [1]}))
        said = {"image_to_caption_file": tmp_path / "captions.json"}
    elif case in ("unread-captions", "service-other-prompt"):
        folder = shutil.copytree(reward_folder, tmp_path / "reward")
        if case == "unread-captions":
            edit_card(folder, prompt="is the answer good?", facts=False)
        else:
            said = {"more_reward_models": [folder]}
            edit_card(folder, prompt="rate it")
        said = said or {"reward_model": folder}
    row = documented(__file__, case)
    with pytest.raises(ValueError, match=row.pattern):
        prepare(command_line(**fine | said))
    assert row.skipped == "–"
