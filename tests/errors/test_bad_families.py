"""Bases of other families than LLaVA: what does not fit them, or has not been tried with them, is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava_rlhf import chat
from tests.errors.documented import documented
from tests.support.tiny_data import command_line
from tests.support.tiny_families import save_tiny_qwen25

QWEN = {"version": "qwen2_5_vl", "query_len": 300, "response_len": 60, "model_max_length": 900}


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def other_words(base: Path) -> None:
    file = base / "chat_template.jinja"
    file.write_text(file.read_text().replace("You are a helpful assistant.", "Be brief."))


# case → what becomes of a copy of the base, program, flags
CASES = {
    "family-untried": (lambda base: None, "chat", {}),
    "window-attention": (lambda base: edit(base / "config.json", use_sliding_window=True), "policy", QWEN),
    "qwen-processor": (
        lambda base: edit(base / "preprocessor_config.json", image_processor_type="CLIPImageProcessor"),
        "policy",
        QWEN,
    ),
    "qwen-patches": (lambda base: edit(base / "preprocessor_config.json", patch_size=16), "policy", QWEN),
    "chat-template-differs": (other_words, "policy", QWEN),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return save_tiny_qwen25(tmp_path_factory.mktemp("qwen") / "base")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, qwen, prepare, tmp_path):
    row, (damage, program, flags) = documented(__file__, case), CASES[case]
    base = shutil.copytree(qwen, tmp_path / "copied" / "base")
    damage(base)
    with pytest.raises(ValueError, match=row.pattern):
        if program == "chat":
            chat.prepare(command_line(base_model_name=base))
        prepare(program, model_name_or_path=base, **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_the_undamaged_base_is_read(qwen, prepare):
    assert len(prepare("policy", model_name_or_path=qwen, **QWEN).train_set) == 16
