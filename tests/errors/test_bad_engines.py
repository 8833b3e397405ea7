"""Servers that can't answer a run's prompts: refused by `prepare`, before a model is loaded."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from llava_rlhf.conversion.published_names import publish_names
from tests.errors.documented import documented
from tests.support.fake_vllm import FakeVLLM
from tests.support.tiny_models import IMAGE, TinyShape, save_tiny_base

HERE = "http://127.0.0.1:9"  # where nobody listens
# case → flags
SETTINGS = {
    "servers-without-engine": {"vllm_servers": HERE},
    "folder-without-engine": {"vllm_adapter_folder": "/adapters"},
    "engine-without-servers": {"rollout_engine": "vllm"},
    "no-address": {"rollout_engine": "vllm", "vllm_servers": "localhost:8000"},
    "address-with-path": {"rollout_engine": "vllm", "vllm_servers": f"{HERE}/v1/models"},
    "server-twice": {"rollout_engine": "vllm", "vllm_servers": [HERE, f"{HERE}/v1/"]},
    "no-time": {"rollout_engine": "vllm", "vllm_servers": HERE, "vllm_request_timeout": 0},
    "nothing-in-flight": {"rollout_engine": "vllm", "vllm_servers": HERE, "vllm_requests_in_flight": 0},
    "request-longer-than-step": {"rollout_engine": "vllm", "vllm_servers": HERE, "vllm_step_timeout": 100},
    "step-longer-than-patience": {"rollout_engine": "vllm", "vllm_servers": HERE, "ddp_timeout": 1000},
    "four-bits": {"rollout_engine": "vllm", "vllm_servers": HERE, "bits": 4},
    "sleep-without-engine": {"vllm_sleep": True},
    "names-of-today": {"rollout_engine": "vllm", "vllm_servers": HERE},
}
# case → what its server says instead of what vLLM would
SERVERS = {
    "nobody-there": None,
    "no-vllm": {"/version": (200, "hello")},
    "too-old": {"/version": (200, {"version": "0.9.1"})},
    "another-key": {"/version": (401, {"error": "Unauthorized"})},
    "another-name": {"/v1/models": (200, {"data": [{"id": "llava", "root": "x", "parent": None}]})},
    "another-base": {},
    "too-short": {},
    "no-adapters": {"/v1/load_lora_adapter": (404, {"detail": "Not Found"})},
    "rank-too-high": {
        "/v1/load_lora_adapter": (
            500,
            {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}},
        )
    },
    "folder-not-shared": {
        "/v1/load_lora_adapter": (404, {"error": {"message": "Loading lora failed: No adapter found for /x"}})
    },
    "no-token-ids": {"/inference/v1/generate": (404, {"detail": "Not Found"})},
    "raw-log-probs": {},
    "one-picture": {},
    "pictures-otherwise": {},
    "no-sleep": {},
    "sleep-without-memory": {
        "/server_info?config_format=json": (
            200,
            {
                "vllm_config": {
                    "model_config": {"enable_sleep_mode": False},
                    "device_config": {"device": "cuda"},
                }
            },
        )
    },
    "asleep": {},
}
CASES = (*SETTINGS, *SERVERS)


@pytest.fixture(scope="module")
def served_base(unloadable_base, tmp_path_factory):
    """The base, as servers read it."""
    folder = tmp_path_factory.mktemp("bases") / "served"
    shutil.copytree(unloadable_base, folder)
    publish_names(folder)
    return folder


def widened(ids: list[int]) -> list[int]:
    """As the tiny base reads a prompt: four positions a picture."""
    return [index for one in ids for index in ([one] * 4 if one == IMAGE else [one])]


def refuse_two_pictures(fake: FakeVLLM):
    """As a server that takes one picture a prompt."""
    generate = fake._generate

    def asked(handler, body):
        if len(body.get("content_parts", ())) > 1:
            fake.script = [400]
        generate(handler, body)

    fake._generate = asked


def second_of_likelihood(reply):
    """As a server says whose log-probabilities know nothing of bans."""
    entry = reply["choices"][0]["logprobs"]["content"][0]
    entry["rank"] = 2
    return reply


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, served_base, tmp_path):
    row = documented(__file__, case)
    flags = SETTINGS.get(case)
    with ExitStack() as stack:
        if flags is None:
            root = served_base
            if case == "another-base":
                root = save_tiny_base(tmp_path / "other", TinyShape(seed=5))
            widen = widened if case != "pictures-otherwise" else list
            fake = stack.enter_context(FakeVLLM(str(root), widen))
            fake.said = SERVERS[case] or {}
            flags = {"rollout_engine": "vllm", "vllm_servers": fake.url, "base_model_name": served_base}
            if case == "nobody-there":
                flags["vllm_servers"] = HERE
            if case == "too-short":
                flags |= {"response_len": 390, "model_max_length": 600}
            if case == "raw-log-probs":
                fake.script = [lambda reply: reply, second_of_likelihood]
            if case in ("no-sleep", "sleep-without-memory"):
                flags["vllm_sleep"] = True
            if case in ("asleep", "sleep-without-memory"):
                fake.asleep = case == "asleep"
            if case == "one-picture":
                refuse_two_pictures(fake)
        with pytest.raises(ValueError, match=row.pattern):
            prepare("ppo", **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_servers_that_can_are_taken(prepare, served_base, tmp_path):
    """Each is asked what the run will ask, and keeps nothing of it."""
    with FakeVLLM(str(served_base), widened) as one, FakeVLLM("/elsewhere/served", widened) as other:
        run = prepare(
            "ppo", base_model_name=served_base, rollout_engine="vllm", vllm_servers=[one.url, other.url]
        )
        assert run.settings.engine.vllm_servers == [one.url, other.url]
        assert {len(body.get("content_parts", ())) for body in one.questions} == {0, 2}
        assert one.loaded == other.loaded == {}
    assert not (tmp_path / "run").exists()
    assert "KEY" not in json.dumps(run.record)


def test_nodes_that_look_at_once_leave_each_other_their_adapter(prepare, served_base):
    """They share a disk: while a server reads the adapter of one, another is through with its own look."""
    there: dict[str, bool] = {}

    class Loaded(dict):
        def __setitem__(self, name, folder):
            there[name] = False
            if len(there) == 1:
                prepare("ppo", **flags)
            there[name] = Path(folder, "adapter_config.json").is_file()
            super().__setitem__(name, folder)

    with FakeVLLM(str(served_base), widened) as fake:
        fake.loaded = Loaded()
        flags = {"rollout_engine": "vllm", "vllm_servers": fake.url, "base_model_name": served_base}
        prepare("ppo", **flags)
    assert list(there.values()) == [True, True]
