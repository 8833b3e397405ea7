"""Scored pairs with numbers chosen by hand, as `llava_rlhf.score` writes them, for the page on a judge's quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.run_folders import write_lines


def judged_pair(row: int, preferred: str, other: str, margin: float, **changes: Any) -> dict[str, Any]:
    """A pair whose preferred response is the second one and scores `margin`; the other scores 0."""
    return {
        "row": row,
        "id": f"p{row}",
        "image": ["red.png"],
        "answer_type": "GENERAL",
        "question": f"question {row}?",
        "responses": [other, preferred],
        "preference": 2,
        "scores": [0.0, margin],
        "margin": margin,
        "agrees": margin > 0 if margin else None,
        **changes,
    }


# Longer preferred: right, right, right; shorter preferred: wrong, wrong, right; equal lengths: a tie.
PAIRS = [
    judged_pair(0, "a long one", "short", 2.0),
    judged_pair(1, "a long one", "short", 1.0),
    judged_pair(2, "a long one", "short", 1.0, answer_type="NO_IN_YESNO"),
    judged_pair(3, "short", "a long one", -3.0, answer_type="A_IN_ABCD"),
    judged_pair(4, "short", "a long one", -1.0),
    judged_pair(5, "short", "a long one", 0.5),
    judged_pair(6, "same", "alike"[:4], 0.0, answer_type="NO_IN_YESNO"),
]


def write_pairs(path: Path, pairs: list[dict[str, Any]] = PAIRS) -> Path:
    write_lines(path, pairs)
    return path
