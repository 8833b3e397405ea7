"""Bases of Idefics3 and SmolVLM2 whose pictures would be cut up otherwise than tower and tokenizer take them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.errors.documented import documented
from tests.errors.test_bad_families import edit
from tests.errors.test_bad_gemma3 import edit_part, edit_processor
from tests.support.tiny_families.idefics3 import IDEFICS_TILE, save_tiny_idefics


def without_a_mark(base: Path) -> None:
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace("<row_4_col_2>", "<row_4-col_2>"))


# case → what becomes of a copy of the base
CASES = {
    "language-model": lambda base: edit_part(base, "text_config", model_type="mistral"),
    "processor": lambda base: edit_processor(base, image_processor_type="CLIPImageProcessor"),
    "scale": lambda base: edit(base / "config.json", scale_factor=3),
    "tile": lambda base: edit_processor(base, max_image_size={"longest_edge": 28}),
    "edge": lambda base: edit_processor(base, size={"longest_edge": 100}),
    "no-edge": lambda base: edit_processor(base, size={"height": 2 * IDEFICS_TILE, "width": IDEFICS_TILE}),
    "as-they-are": lambda base: edit_processor(base, do_resize=False),
    "mark": without_a_mark,
}


@pytest.fixture(scope="module")
def idefics(tmp_path_factory) -> Path:
    return save_tiny_idefics(tmp_path_factory.mktemp("idefics") / "base")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, idefics, prepare, tmp_path):
    row = documented(__file__, case)
    base = shutil.copytree(idefics, tmp_path / "copied" / "base")
    CASES[case](base)
    with pytest.raises(ValueError, match=row.pattern):
        prepare("policy", model_name_or_path=base)
    assert row.skipped == "–" and not (tmp_path / "run").exists()
