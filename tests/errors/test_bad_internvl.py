"""Bases of InternVL whose pictures would be cut up otherwise than the tower takes them, or with parts that were not tried."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llava_rlhf import plan_memory
from tests.errors.documented import documented
from tests.errors.test_bad_families import edit
from tests.errors.test_bad_gemma3 import edit_part, edit_processor
from tests.support.tiny_families.internvl import save_tiny_internvl


def other_marks(base: Path) -> None:
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace('"</img>"', '"</image>"'))


# case → what becomes of a copy of the base
CASES = {
    "another-tower": lambda base: edit_part(base, "vision_config", model_type="siglip_vision_model"),
    "another-language-model": lambda base: edit_part(base, "text_config", model_type="gpt_oss"),
    "class-token": lambda base: edit(base / "config.json", vision_feature_select_strategy="full"),
    "feature-layer": lambda base: edit(base / "config.json", vision_feature_layer=[-2, -1]),
    "processor": lambda base: edit_processor(base, image_processor_type="CLIPImageProcessor"),
    "size": lambda base: edit_processor(base, size={"height": 28, "width": 28}),
    "joined": lambda base: edit(base / "config.json", downsample_ratio=0.3),
    "length": lambda base: edit(base / "config.json", image_seq_length=16),
    "marks": other_marks,
    "planned-without-tokenizer": lambda base: (base / "tokenizer.json").unlink(),
}


@pytest.fixture(scope="module")
def internvl(tmp_path_factory) -> Path:
    return save_tiny_internvl(tmp_path_factory.mktemp("internvl") / "base")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, internvl, prepare, tmp_path):
    row = documented(__file__, case)
    base = shutil.copytree(internvl, tmp_path / "copied" / "base")
    CASES[case](base)
    with pytest.raises(ValueError, match=row.pattern):
        if case == "planned-without-tokenizer":
            plan_memory.prepare(["initialize_policy_model", "--model_name_or_path", str(base)])
        prepare("policy", model_name_or_path=base)
    assert row.skipped == "–" and not (tmp_path / "run").exists()
