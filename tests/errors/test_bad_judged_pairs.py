"""Reports on a judge's pairs that can't be written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf import run_report
from tests.errors.documented import documented
from tests.support.judged import PAIRS, write_pairs
from tests.support.tiny_data import command_line

ANSWER = {"row": 0, "id": "1", "answer": "a cat.", "score": 1.0}

# case → lines of the file, flags
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "nothing-to-report": (PAIRS, {"pairs": None}),
    "no-pairs-file": (PAIRS, {"pairs": "none.jsonl"}),
    "empty-pairs": ([], {}),
    "answers-as-pairs": ([ANSWER], {}),
    "pairs-twice": ([PAIRS[0], PAIRS[0]], {}),
    "pair-with-one-score": ([{**PAIRS[0], "scores": [1.0]}], {}),
    "pair-margin": ([{**PAIRS[0], "margin": True}], {}),
    "pair-type": ([{**PAIRS[0], "answer_type": ["GENERAL"]}], {}),
    "pair-image": ([{**PAIRS[0], "image": 3}], {}),
    "pairs-with-scores": (PAIRS, {"scores": ["a.json", "b.json"]}),
    "pairs-of-two-runs": (PAIRS, {"run": ["a", "b"]}),
    "captions-without-pairs": (PAIRS, {"pairs": None, "run": ["a"], "image_to_caption_file": "c.json"}),
    "worst-pairs-without-pairs": (PAIRS, {"pairs": None, "run": ["a"], "worst_pairs": 3}),
    "rollouts-of-pairs": (PAIRS, {"max_rollouts": 2}),
    "steps-of-pairs": (PAIRS, {"whole_steps": 1}),
    "rows-of-pairs": (PAIRS, {"max_rows": 5}),
    "worst-below-0": (PAIRS, {"worst_pairs": -1}),
    "page-over-pairs": (PAIRS, {"output_file": "pairs.jsonl"}),
    "page-is-a-folder": (PAIRS, {"output_file": "."}),
    "captions-not-there": (PAIRS, {"image_to_caption_file": "c.json"}),
    "captions-broken": (PAIRS, {"image_to_caption_file": "broken.json"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_documented(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row, (lines, changes) = documented(__file__, case), CASES[case]
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) or "[]")
    Path("broken.json").write_text(json.dumps({"red.png": 3}))
    with pytest.raises(ValueError) as refused:
        run_report.prepare(command_line(**{"pairs": "pairs.jsonl", **changes}))
    assert re.search(row.pattern, str(refused.value)), refused.value
    assert not Path("pairs.jsonl.html").exists()


@pytest.mark.parametrize("margin", [10**400, float("nan"), "2"])
def test_a_margin_is_a_number_that_a_float_can_hold(margin, tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", [{**PAIRS[0], "margin": margin}])
    with pytest.raises(ValueError, match="line 1: field 'margin' is "):
        run_report.prepare(command_line(pairs=path))
