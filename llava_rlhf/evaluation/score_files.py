"""The file of numbers of one run on one benchmark: metrics with intervals, and the values of every item behind them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_rlhf.evaluation.benchmarks.items import ItemScore, Scores
from llava_rlhf.reporting.statistics import CONFIDENCE, Sums, interval
from llava_rlhf.runs.run_folder import write_text_whole

ALL = "all"


@dataclass(frozen=True)
class ScoreFile:
    """What is kept of a run.

    Attributes:
        benchmark: its name.
        metrics: metric → its meaning.
        answers: the file of answers.
        answer_settings: how they were made, where that is known.
        scores: values of the items, conditions and counts.
    """

    benchmark: str
    metrics: Mapping[str, str]
    answers: str
    answer_settings: Mapping[str, Any] | None
    scores: Scores

    def write(self, path: Path, table: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the file whole; `table` is what `summarise` made."""
        content = {
            "benchmark": self.benchmark,
            "metrics": dict(self.metrics),
            "answers": self.answers,
            "answer_settings": self.answer_settings,
            "conditions": dict(self.scores.conditions),
            "counts": dict(self.scores.counts),
            "confidence": CONFIDENCE,
            "table": table,
            "items": [asdict(item) for item in self.scores.items],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, json.dumps(content, indent=1, default=float) + "\n")


def judge_of(conditions: Mapping[str, Any]) -> str | None:
    """The judge's name, with what its server called it where that differs; None where no judge has read the answers."""
    if "judge" not in conditions:
        return None
    reported = conditions.get("judge_reported")
    return f"{conditions['judge']} ({', '.join(reported)})" if reported else str(conditions["judge"])


def read_score_file(path: str | Path) -> ScoreFile:
    """Read what `ScoreFile.write` wrote. Raises ValueError for another file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        items = [
            ItemScore(
                item["id"],
                item["category"],
                item["cluster"],
                {name: (float(top), float(bottom)) for name, (top, bottom) in item["values"].items()},
            )
            for item in content["items"]
        ]
        _check_items(items, content["metrics"])
        return ScoreFile(
            content["benchmark"],
            content["metrics"],
            content["answers"],
            content["answer_settings"],
            Scores(items, content["conditions"], content["counts"]),
        )
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no score file of `llava_rlhf.evaluate score` ({error!r})") from None


def _check_items(items: Sequence[ItemScore], metrics: Mapping[str, str]) -> None:
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        raise ValueError("an item comes twice")
    for item in items:
        if not all(math.isfinite(number) for name in metrics for number in item.values[name]):
            raise ValueError(f"item {item.id} has a value that is not finite")


def categories(items: Sequence[ItemScore]) -> list[str]:
    """`all`, and where there are several categories each of them, in the order of the items."""
    found = list(dict.fromkeys(item.category for item in items))
    return [ALL, *found] if len(found) > 1 else [ALL]


def sums(items: Sequence[ItemScore], metric: str, category: str, clusters: Sequence[str]) -> Sums:
    """A metric's values in a category, added up by cluster, in the order of `clusters`."""
    place = {cluster: number for number, cluster in enumerate(clusters)}
    totals = np.zeros((2, len(clusters)))
    for item in items:
        if category in (ALL, item.category):
            totals[:, place[item.cluster]] += item.values[metric]
    return Sums(*totals)


def clusters_of(items: Sequence[ItemScore], category: str) -> list[str]:
    """The clusters of a category, in the order of the items."""
    return list(dict.fromkeys(item.cluster for item in items if category in (ALL, item.category)))


def summarise(
    items: Sequence[ItemScore], metrics: Sequence[str], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """category → metric → {`value`, `interval`, `items`}: the number of items that say something of it."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for category in categories(items):
        clusters = clusters_of(items, category)
        table[category] = {}
        for metric in metrics:
            found = sums(items, metric, category, clusters)
            table[category][metric] = {
                "value": found.ratio,
                "interval": interval(found, resamples, seed),
                "items": sum(
                    item.values[metric][1] != 0 for item in items if category in (ALL, item.category)
                ),
            }
    return table


def format_summary(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One line a metric and category: value, 95 % interval, items."""
    width = max(len(category) for category in table) + 2
    lines = []
    for category, metrics in table.items():
        for name, entry in metrics.items():
            lines.append(
                f"{category:<{width}}{name:<20}{number(entry['value']):>9}  {limits(entry['interval']):<18}"
                f"(items = {entry['items']})"
            )
    return "\n".join(lines)


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or – where there is none."""
    return "–" if value is None else format(value, form)


def limits(value: Sequence[float] | None, form: str = ".3f") -> str:
    """An interval, or – where there is none."""
    return "–" if value is None else f"[{format(value[0], form)}, {format(value[1], form)}]"
