"""MM-RLHF-RewardBench (Zhang et al., arXiv 2502.10391): pairs right, and questions with all their pairs right (ACC+)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llava_rlhf.evaluation.benchmarks.published_pairs import Key, PairBenchmark, PublishedPair, Values
from llava_rlhf.evaluation.benchmarks.scored_pairs import PAIR_METRICS

_PARTS = ("mcq", "long", "short", "safety", "video")  # the first that the path of the picture holds
_OTHER = "other"


def part_of(path: str) -> str:
    """The part of a benchmark's pair, by the published rule: the first word of the list that is in its path."""
    return next((part for part in _PARTS if part in path), _OTHER)


class MMRLHFRewardBench(PairBenchmark):
    """Rows of `id` (of the question), `prompt`, `chosen`, `rejected`, and `image` or `video`."""

    name: ClassVar[str] = "mm_rlhf_rewardbench"
    texts: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    metrics: ClassVar[Mapping[str, str]] = PAIR_METRICS | {
        "accuracy": PAIR_METRICS["accuracy"].replace("a tie counts half", "a tie is wrong, as published"),
        "acc_plus": "ACC+, share of questions whose pairs are all right; of those without a score for each of them nothing is said",
    }

    def read(self, row: Mapping[str, Any]) -> PublishedPair:
        """As `PairBenchmark.read`."""
        if type(row.get("id")) not in (str, int):
            raise ValueError(f"field 'id' is {row.get('id')!r}, must be the name or number of a question")
        path = row.get("image") or row.get("video") or ""
        if not isinstance(path, str):
            raise ValueError(f"field 'image' is {path!r}, must be the published path: it tells the part")
        identity = str(row["id"])
        return PublishedPair(identity, part_of(path), identity, row["chosen"], row["rejected"])

    def outcome(self, margin: float) -> float:
        """As `PairBenchmark.outcome`, but a tie is wrong: the published script asks for a higher reward."""
        return float(margin > 0)

    def further(self, pairs: Sequence[PublishedPair], found: Mapping[Key, float]) -> dict[Key, Values]:
        """As `PairBenchmark.further`: the first pair of a question stands for the question."""
        questions: defaultdict[str, list[PublishedPair]] = defaultdict(list)
        for pair in pairs:
            questions[pair.id].append(pair)
        values: dict[Key, Values] = {key: {"acc_plus": (0.0, 0.0)} for key in found}
        for first, *others in questions.values():
            keys = [pair.key for pair in (first, *others)]
            if all(key in found for key in keys):
                values[first.key] = {"acc_plus": (float(all(found[key] == 1 for key in keys)), 1.0)}
        return values
