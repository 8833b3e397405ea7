"""Bases of other families than LLaVA: what does not fit them, or has not been tried with them, is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.errors.documented import documented
from tests.support.tiny_families.llava_next import save_tiny_next
from tests.support.tiny_families.qwen import save_tiny_qwen25

NEXT = {"query_len": 300, "response_len": 60, "model_max_length": 900}
QWEN = {"version": "chat", "query_len": 300, "response_len": 60, "model_max_length": 900}


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# case → what becomes of a copy of the base, program, flags
CASES = {
    "window-attention": (lambda base: edit(base / "config.json", use_sliding_window=True), "policy", QWEN),
    "qwen-processor": (
        lambda base: edit(base / "preprocessor_config.json", image_processor_type="CLIPImageProcessor"),
        "policy",
        QWEN,
    ),
    "qwen-patches": (lambda base: edit(base / "preprocessor_config.json", patch_size=16), "policy", QWEN),
    "recurrent-layers": (lambda base: edit(base / "config.json", model_type="qwen3_5"), "policy", {}),
    "next-class-token": (
        lambda base: edit(base / "config.json", vision_feature_select_strategy="full"),
        "policy",
        NEXT,
    ),
    "next-processor": (
        lambda base: edit(base / "preprocessor_config.json", image_processor_type="CLIPImageProcessor"),
        "policy",
        NEXT,
    ),
    "next-no-tiles": (
        lambda base: edit(base / "config.json", image_grid_pinpoints=[[28, 56], [56, 50]]),
        "policy",
        NEXT,
    ),
    "next-other-tiles": (
        lambda base: edit(base / "preprocessor_config.json", image_grid_pinpoints=[[28, 56]]),
        "policy",
        NEXT,
    ),
    "next-crop": (
        lambda base: edit(base / "preprocessor_config.json", crop_size={"height": 42, "width": 42}),
        "policy",
        NEXT,
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """By the first word of a case; others are Qwens'."""
    saved = {"qwen": save_tiny_qwen25, "next": save_tiny_next}
    return {name: save(tmp_path_factory.mktemp(name) / "base") for name, save in saved.items()}


@pytest.mark.parametrize("case", CASES)
def test_documented(case, bases, prepare, tmp_path):
    row, (damage, program, flags) = documented(__file__, case), CASES[case]
    base = shutil.copytree(bases.get(case.split("-")[0], bases["qwen"]), tmp_path / "copied" / "base")
    damage(base)
    with pytest.raises(ValueError, match=row.pattern):
        prepare(program, model_name_or_path=base, **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_the_undamaged_base_is_read(bases, prepare):
    assert len(prepare("policy", model_name_or_path=bases["qwen"], **QWEN).train_set) == 16
