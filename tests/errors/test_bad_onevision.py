"""LLaVA-OneVision: parts that were not tried, tiles that the tower does not take, and rows of several pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_utils.image_choices import ImageChoices
from data_utils.problems import DataError
from llava_rlhf.assembly.roles import load_text_side, row_settings
from llava_rlhf.runs.arguments import DataArguments
from tests.errors.documented import documented
from tests.errors.test_bad_families import edit
from tests.errors.test_bad_gemma3 import edit_part, edit_processor
from tests.support.tiny_data import dialogue_row
from tests.support.tiny_families.llava_onevision import save_tiny_onevision

SEVERAL = "several-images"
# case → what becomes of a copy of the base
CASES = {
    "another-tower": lambda base: edit_part(base, "vision_config", model_type="clip_vision_model"),
    "another-language-model": lambda base: edit_part(base, "text_config", model_type="phi3"),
    "class-token": lambda base: edit(base / "config.json", vision_feature_select_strategy="default"),
    "most-tiles": lambda base: edit(base / "config.json", vision_aspect_ratio="square"),
    "processor": lambda base: edit_processor(base, image_processor_type="SiglipImageProcessor"),
    "size": lambda base: edit_processor(base, size={"height": 56, "width": 56}),
    SEVERAL: None,
}


@pytest.fixture(scope="module")
def onevision(tmp_path_factory) -> Path:
    return save_tiny_onevision(tmp_path_factory.mktemp("onevision") / "base")


@pytest.mark.parametrize("case", [case for case in CASES if case != SEVERAL])
def test_documented(case, onevision, prepare, tmp_path):
    row = documented(__file__, case)
    base = shutil.copytree(onevision, tmp_path / "copied" / "base")
    CASES[case](base)
    with pytest.raises(ValueError, match=row.pattern):
        prepare("policy", model_name_or_path=base)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_rows_of_several_pictures_are_refused_or_left_out(onevision, data, world, tmp_path):
    row, file = documented(__file__, SEVERAL), tmp_path / "rows.json"
    one = dialogue_row(0)
    several = {**one, "id": "several", "image": [one["image"], dialogue_row(1)["image"]]}
    several["conversations"] = [
        {**turn, "value": turn["value"].replace("<image>", "<image>\n<image>")}
        for turn in one["conversations"]
    ]
    file.write_text(json.dumps([one, several]))
    arguments = DataArguments(dataset_path=str(file), image_folder=str(data.images))
    asked = row_settings(arguments, load_text_side(onevision, ImageChoices(), "chat")).one_image
    assert len(world.build("policy", file)) == 2
    with pytest.raises(DataError, match=row.pattern):
        world.build("policy", file, one_image=asked)
    kept = world.build("policy", file, one_image=asked, skip_invalid=True)
    assert row.skipped == "drops it"
    assert len(kept) == 1 and kept.report.dropped == {"several images in a row": 1}
