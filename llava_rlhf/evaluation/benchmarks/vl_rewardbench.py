"""VL-RewardBench (Li et al., arXiv 2411.17451): three groups of pairs, told by the beginning of their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llava_rlhf.evaluation.benchmarks.published_pairs import Key, PairBenchmark, PublishedPair, Values
from llava_rlhf.evaluation.benchmarks.scored_pairs import PAIR_METRICS

# What stands before the first "-" and "_" of an id, in small letters; every other name is of the general group.
_GROUPS = {
    "mathverse": "reasoning",
    "mmmu": "reasoning",
    "hallucination": "hallucination",
    "rlhf": "hallucination",
    "rlaif": "hallucination",
}
_GENERAL = "general"


def group_of(identity: str) -> str:
    """`general`, `hallucination` or `reasoning`, by the published rule: "RLAIF-V-14" → "rlaif" → hallucination."""
    return _GROUPS.get(identity.split("-")[0].split("_")[0].lower(), _GENERAL)


class VLRewardBench(PairBenchmark):
    """Rows of `id`, `query`, `response` (two) and `human_ranking`: 0 is the better one's rank."""

    name: ClassVar[str] = "vl_rewardbench"
    texts: ClassVar[tuple[str, ...]] = ("id", "query")
    metrics: ClassVar[Mapping[str, str]] = PAIR_METRICS | {
        "macro": "mean of the accuracies of the groups that have pairs; `accuracy` under `all` is the published overall accuracy"
    }

    def read(self, row: Mapping[str, Any]) -> PublishedPair:
        """As `PairBenchmark.read`."""
        responses, ranking = row.get("response"), row.get("human_ranking")
        if (
            not isinstance(responses, list)
            or len(responses) != 2
            or not all(isinstance(r, str) for r in responses)
        ):
            raise ValueError(f"field 'response' must be a list of two texts, not {responses!r}")
        if ranking not in ([0, 1], [1, 0]):
            raise ValueError(f"field 'human_ranking' is {ranking!r}, must be [0, 1] or [1, 0]")
        best = ranking.index(0)
        cluster = str(row.get("image_path") or row["id"])
        return PublishedPair(row["id"], group_of(row["id"]), cluster, responses[best], responses[1 - best])

    def further(self, pairs: Sequence[PublishedPair], found: Mapping[Key, float]) -> dict[Key, Values]:
        """As `PairBenchmark.further`: each group weighs the same, whatever its size."""
        there = [pair for pair in pairs if pair.key in found]
        sizes = Counter(pair.part for pair in there)
        return {
            pair.key: {"macro": (found[pair.key] / sizes[pair.part], 1 / sizes[pair.part])} for pair in there
        }
