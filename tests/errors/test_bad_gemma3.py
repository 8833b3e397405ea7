"""Bases of Gemma 3 that are none, or whose pictures would be cut up otherwise than the tower takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.errors.documented import documented
from tests.errors.test_bad_families import edit
from tests.support.tiny_families.gemma3 import save_tiny_gemma3


def edit_part(base: Path, part: str, **changes: object) -> None:
    file = base / "config.json"
    fields = json.loads(file.read_text())
    edit(file, **{part: {**fields[part], **changes}})


def edit_processor(base: Path, **changes: object) -> None:
    edit(base / "preprocessor_config.json", **changes)


def text_alone(base: Path) -> None:
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text())["text_config"]))


# case → what becomes of a copy of the base
CASES = {
    "text-alone": text_alone,
    "no-vision-config": lambda base: (base / "config.json").write_text('{"model_type": "gemma3"}'),
    "another-tower": lambda base: edit_part(base, "vision_config", model_type="siglip2_vision_model"),
    "both-ways": lambda base: edit_part(base, "text_config", use_bidirectional_attention=True),
    "processor": lambda base: edit_processor(base, image_processor_type="SiglipImageProcessor"),
    "pan-and-scan": lambda base: edit_processor(base, do_pan_and_scan=True),
    "size": lambda base: edit_processor(base, size={"height": 28, "width": 28}),
    "pooling": lambda base: edit(base / "config.json", mm_tokens_per_image=9),
}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> Path:
    return save_tiny_gemma3(tmp_path_factory.mktemp("gemma") / "base")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, gemma, prepare, tmp_path):
    row = documented(__file__, case)
    base = shutil.copytree(gemma, tmp_path / "copied" / "base")
    CASES[case](base)
    with pytest.raises(ValueError, match=row.pattern):
        prepare("policy", model_name_or_path=base)
    assert row.skipped == "–" and not (tmp_path / "run").exists()
