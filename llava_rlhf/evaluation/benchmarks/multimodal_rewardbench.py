"""Multimodal RewardBench (Yasunaga et al., arXiv 2502.14191): accuracy by category."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llava_rlhf.evaluation.benchmarks.published_pairs import PairBenchmark, PublishedPair

# category → (what the name begins with, its part, the part of all others)
_DIVIDED = {
    "safety": ("pairs", "safety/bias", "safety/toxicity"),
    "reasoning": ("math", "reasoning/math", "reasoning/coding"),
}
_OUTPUTS = ("Output1", "Output2")


def part_of(category: str, identity: str) -> str:
    """What a pair is reported under, by the published rule: safety and reasoning are divided by the beginning of `ID`."""
    if category not in _DIVIDED:
        return category
    beginning, part, others = _DIVIDED[category]
    return part if identity.lower().startswith(beginning) else others


class MultimodalRewardBench(PairBenchmark):
    """Rows of `ID`, `Category`, `Text`, `Output1`, `Output2`, `Better` (the name of one of them) and `Image`."""

    name: ClassVar[str] = "multimodal_rewardbench"
    texts: ClassVar[tuple[str, ...]] = ("ID", "Category", "Text", *_OUTPUTS, "Better")

    def read(self, row: Mapping[str, Any]) -> PublishedPair:
        """As `PairBenchmark.read`."""
        if row["Better"] not in _OUTPUTS:
            raise ValueError(f"field 'Better' is {row['Better']!r}, must be Output1 or Output2")
        (other,) = set(_OUTPUTS) - {row["Better"]}
        part, cluster = part_of(row["Category"], row["ID"]), str(row.get("Image") or row["ID"])
        return PublishedPair(row["ID"], part, cluster, row[row["Better"]], row[other])
