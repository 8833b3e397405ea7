"""Runs side by side: every metric of every run with its interval, and what differs from the first run, item by item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_rlhf.evaluation.score_files import ScoreFile, categories, clusters_of, sums
from llava_rlhf.reporting.statistics import Difference, interval, paired_difference

SHOWN_IDS = 5


@dataclass(frozen=True)
class Row:
    """One metric of one run.

    Attributes:
        benchmark, category, metric, run: of what.
        value: the metric, None where nothing says anything of it.
        interval: its 95 % interval.
        difference: to the first run; None in the first run's own rows.
    """

    benchmark: str
    category: str
    metric: str
    run: str
    value: float | None
    interval: tuple[float, float] | None
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Rows, and what must be said beside them."""

    rows: Sequence[Row]
    notes: Sequence[str]


def group_runs(files: Sequence[tuple[str, ScoreFile]]) -> dict[str, dict[str, ScoreFile]]:
    """benchmark → run → file, for (run, file) pairs.

    Raises:
        ValueError: a run has two files of one benchmark, or a benchmark lacks the first run.
    """
    first = files[0][0]
    groups: dict[str, dict[str, ScoreFile]] = {}
    for name, file in files:
        runs = groups.setdefault(file.benchmark, {})
        if name in runs:
            raise ValueError(f"--runs: {name} has two files of the benchmark {file.benchmark}")
        runs[name] = file
    for benchmark, runs in groups.items():
        if first not in runs:
            raise ValueError(
                f"--runs: {first}, with which all others are compared, has no file of the benchmark {benchmark}"
            )
    return {
        benchmark: {first: runs[first], **{name: file for name, file in runs.items() if name != first}}
        for benchmark, runs in groups.items()
    }


def check_comparable(
    groups: Mapping[str, Mapping[str, ScoreFile]], other_conditions: bool, leave_out_missing: bool
) -> list[str]:
    """What must be said beside the table.

    Raises:
        ValueError: runs were scored under other conditions or on other items, and that was not allowed.
    """
    notes = []
    for benchmark, runs in groups.items():
        (first_name, first), *others = runs.items()
        for name, file in others:
            if list(file.metrics) != list(first.metrics):
                raise ValueError(f"{benchmark}: {name} has other metrics than {first_name}; score both again")
            differing = _differing_conditions(first, file)
            _refuse_other_judges(benchmark, (first_name, first), (name, file))
            if differing and not other_conditions:
                raise ValueError(
                    f"{benchmark}: {name} was scored under other conditions than {first_name}: {'; '.join(differing)}. "
                    "Such numbers can't be compared; to print them all the same, with a note, add "
                    "--allow_other_conditions True"
                )
            if differing:
                notes.append(
                    f"{benchmark}: {name} and {first_name} were scored under OTHER CONDITIONS "
                    f"({'; '.join(differing)}); their difference may be that of the conditions."
                )
        notes += _check_items(benchmark, runs, leave_out_missing)
        if "judge" in first.scores.conditions:
            notes.append(f"{benchmark}: judged by {first.scores.conditions['judge']}.")
        for name, file in runs.items():
            failures = file.scores.counts.get("parse_failures")
            if failures:
                verdicts = file.scores.counts["verdicts"]
                notes.append(f"{benchmark}: {failures} of {verdicts} verdicts on {name} could not be read.")
    return notes


def compare(groups: Mapping[str, Mapping[str, ScoreFile]], resamples: int, seed: int) -> Iterator[Row]:
    """Rows of all metrics, on the items that all runs of a benchmark have."""
    for benchmark, runs in groups.items():
        common = set.intersection(*({item.id for item in file.scores.items} for file in runs.values()))
        items = {
            name: sorted((item for item in file.scores.items if item.id in common), key=lambda item: item.id)
            for name, file in runs.items()
        }
        first_name, *_ = runs
        for category in categories(items[first_name]):
            # Of all runs: under other conditions an item may belong to another image, or part, in each.
            clusters = list(dict.fromkeys(c for run in runs for c in clusters_of(items[run], category)))
            for metric in runs[first_name].metrics:
                first = sums(items[first_name], metric, category, clusters)
                for name in runs:
                    ours = sums(items[name], metric, category, clusters)
                    difference = (
                        None if name == first_name else paired_difference(first, ours, resamples, seed)
                    )
                    yield Row(
                        benchmark,
                        category,
                        metric,
                        name,
                        ours.ratio,
                        interval(ours, resamples, seed),
                        difference,
                    )


def _refuse_other_judges(benchmark: str, *runs: tuple[str, ScoreFile]) -> None:
    """Raise ValueError where not all were read by one judge, or by one rule: no note makes such numbers comparable."""
    read_by = {
        name: file.scores.conditions.get("judge")
        or f"no judge ({file.scores.conditions.get('verdict', 'rule')})"
        for name, file in runs
    }
    if len(set(read_by.values())) > 1:
        said = ", ".join(f"{name} by {judge}" for name, judge in read_by.items())
        raise ValueError(
            f"{benchmark}: read by different judges: {said}. Score the same answers again, all by one judge"
        )


def _check_items(benchmark: str, runs: Mapping[str, ScoreFile], leave_out_missing: bool) -> list[str]:
    ids = {name: {item.id for item in file.scores.items} for name, file in runs.items()}
    every, common = set.union(*ids.values()), set.intersection(*ids.values())
    if every == common:
        return []
    lacking = ", ".join(f"{name} lacks {len(every - have)}" for name, have in ids.items() if every - have)
    if not common:
        raise ValueError(f"{benchmark}: the runs have no item in common ({lacking})")
    if not leave_out_missing:
        shown = ", ".join(sorted(every - common)[:SHOWN_IDS])
        raise ValueError(
            f"{benchmark}: the runs were not scored on the same items: {lacking} of {len(every)} (first: {shown}). "
            "To compare on the common ones, with a note, add --missing_items leave_out"
        )
    return [f"{benchmark}: only the {len(common)} items that all runs have are counted ({lacking})."]


def _differing_conditions(first: ScoreFile, other: ScoreFile) -> list[str]:
    ours, theirs = first.scores.conditions, other.scores.conditions
    return [
        f"{name} {_short(theirs.get(name))} instead of {_short(ours.get(name))}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
