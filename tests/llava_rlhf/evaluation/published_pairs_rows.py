"""Scored pairs as `score.py` writes them, for the benchmarks of reward models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_rlhf.evaluation.benchmarks.items import Scores
from llava_rlhf.evaluation.score_files import summarise


def scored_pair(identity: str, better: str, worse: str, margin: float, **changes: Any) -> dict[str, Any]:
    """A line in which the better response is the second one."""
    line = {"row": 0, "id": identity, "responses": [worse, better], "preference": 2, "margin": margin}
    return line | changes


def values(scores: Scores, metrics: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """part → metric → value."""
    table = summarise(scores.items, list(metrics), 100, 0)
    return {part: {name: entry["value"] for name, entry in row.items()} for part, row in table.items()}
