"""Files of reward benchmarks, and scores of their pairs, that can't be used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf import evaluate
from tests.errors.documented import documented
from tests.llava_rlhf.evaluation.published_pairs_rows import scored_pair
from tests.support.tiny_data import command_line

VL = {"id": "RLHF-V-1", "query": "what?", "response": ["a cat.", "a dog."], "human_ranking": [0, 1]}
SCORED = scored_pair("RLHF-V-1", "a cat.", "a dog.", 1.0)
MM = {"id": 1, "prompt": "what?", "chosen": "a cat.", "rejected": "a dog.", "image": "long/1.png"}
MULTIMODAL = {"ID": "1", "Category": "vqa", "Text": "what?", "Output1": "a cat.", "Output2": "a dog."}

# case → benchmark, a row of its file (None: no row), a scored pair, further flags
CASES: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "no-file": ("vl_rewardbench", VL, SCORED, {"benchmark_files": "none.jsonl"}),
    "no-file-named": ("vl_rewardbench", VL, SCORED, {"benchmark_files": None}),
    "no-pairs": ("vl_rewardbench", None, SCORED, {}),
    "other-file": ("vl_rewardbench", {"question": "what?"}, SCORED, {}),
    "vl-responses": ("vl_rewardbench", {**VL, "response": "a cat."}, SCORED, {}),
    "vl-ranking": ("vl_rewardbench", {**VL, "human_ranking": [1, 2]}, SCORED, {}),
    "no-scores": ("vl_rewardbench", VL, {"id": "RLHF-V-1", "answer": "a cat."}, {}),
    "no-preference": ("vl_rewardbench", VL, {**SCORED, "preference": 3}, {}),
    "other-pair": ("vl_rewardbench", VL, {**SCORED, "id": "RLHF-V-2"}, {}),
    "other-preference": ("vl_rewardbench", VL, {**SCORED, "preference": 1}, {}),
    "mm-id": ("mm_rlhf_rewardbench", {**MM, "id": None}, SCORED, {}),
    "mm-image": ("mm_rlhf_rewardbench", {**MM, "image": {"bytes": "aGVsbG8="}}, SCORED, {}),
    "better": ("multimodal_rewardbench", {**MULTIMODAL, "Better": "A"}, SCORED, {}),
    "missing-pairs": ("vl_rewardbench", [VL, {**VL, "id": "mmmu_1"}], SCORED, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_documented(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row, (benchmark, content, scored, changes) = documented(__file__, case), CASES[case]
    rows = content if isinstance(content, list) else [] if content is None else [content]
    Path("data.json").write_text(json.dumps(rows))
    Path("scores.jsonl").write_text(json.dumps(scored) + "\n")
    flags = {"benchmark": benchmark, "benchmark_files": "data.json", "answers": "scores.jsonl"}
    argv = ["score", *command_line(**{**flags, "output_file": "out.json", **changes})]
    with pytest.raises(ValueError) as refused:
        evaluate.prepare(argv)
    assert re.search(row.pattern, str(refused.value)), refused.value
    assert not Path("out.json").exists()
