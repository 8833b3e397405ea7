"""The table of a suite: what is invented never stands without what is covered, nor a verdict without its judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_rlhf.evaluation.score_files import ALL, ScoreFile, judge_of, limits, number

UP, DOWN = "↑", "↓"
# Benchmark → what tells of hallucination, which way is better, and what tells of coverage (more is better).
HEADLINES: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "pope": [("precision", UP, "recall")],
    "mmhal": [("hallucination", DOWN, "rating")],
    "chair": [("chair_s", DOWN, "recall"), ("chair_i", DOWN, "recall")],
    "amber": [
        ("chair", DOWN, "cover"),
        ("hal", DOWN, "cover"),
        ("cog", DOWN, "cover"),
        ("recall", UP, "affirmed"),
        ("f1", UP, "accuracy"),
    ],
    "hallusionbench": [
        ("aAcc", UP, "answered"),
        ("fAcc", UP, "answered"),
        ("qAcc", UP, "answered"),
        ("hard", UP, "answered"),
    ],
    "object_halbench": [
        ("response_hallucination", DOWN, "recall"),
        ("mention_hallucination", DOWN, "recall"),
    ],
    "tiny_world": [("hallucination", DOWN, "recall"), ("false_share", DOWN, "recall")],
}
HEADS = (
    "entry",
    "benchmark",
    "read by",
    "hallucination",
    "value",
    "95 % interval",
    "coverage",
    "value",
    "95 % interval",
)


@dataclass(frozen=True)
class SuiteRow:
    """A measure of hallucination beside one of coverage.

    Attributes:
        entry, benchmark: of what.
        read_by: the judge's name, or what else read the answers.
        hallucination, better, coverage: names of the metrics, and whether the first is better high or low.
        measured: `hallucination` and `coverage` → {`value`, `interval`, `items`}.
    """

    entry: str
    benchmark: str
    read_by: str
    hallucination: str
    better: str
    coverage: str
    measured: Mapping[str, Mapping[str, Any]]


def suite_rows(
    entry: str, file: ScoreFile, table: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[SuiteRow]:
    """Rows of an entry; a pair of which neither was asked (descriptions of AMBER's questions alone, say) has none."""
    found = []
    for hallucination, better, coverage in HEADLINES[file.benchmark]:
        measured = {"hallucination": table[ALL][hallucination], "coverage": table[ALL][coverage]}
        if any(cell["items"] for cell in measured.values()):
            found.append(
                SuiteRow(
                    entry,
                    file.benchmark,
                    read_by(file.scores.conditions),
                    hallucination,
                    better,
                    coverage,
                    measured,
                )
            )
    return found


def read_by(conditions: Mapping[str, Any]) -> str:
    """Who read the answers: the judge's name; without one the published rule, or how words were found."""
    return judge_of(conditions) or str(conditions.get("words") or "rule")


def suite_notes(files: Mapping[str, ScoreFile]) -> list[str]:
    """What must be said beside the table: verdicts that could not be read, and items without an answer."""
    notes = []
    for entry, file in files.items():
        counts, conditions = file.scores.counts, file.scores.conditions
        if "judge_prompt" in conditions:
            options = json.dumps(conditions["judge_settings"]["options"])
            notes.append(
                f"{entry}: judge {conditions['judge']}, {options}, prompt {conditions['judge_prompt'][:12]}."
            )
        if counts.get("parse_failures"):
            notes.append(
                f"{entry}: {counts['parse_failures']} of {counts['verdicts']} verdicts could not be read."
            )
        if counts.get("missing"):
            notes.append(f"{entry}: {counts['missing']} items have no answer and are left out.")
    return notes


def suite_markdown(rows: Sequence[SuiteRow], files: Mapping[str, ScoreFile]) -> str:
    """The table, its notes, and what each metric means."""
    lines = [f"| {' | '.join(HEADS)} |", f"| {' | '.join(['---'] * len(HEADS))} |"]
    for row in rows:
        cells = [row.entry, row.benchmark, row.read_by, f"{row.hallucination} {row.better}"]
        cells += [
            number(row.measured["hallucination"]["value"]),
            limits(row.measured["hallucination"]["interval"]),
        ]
        cells += [f"{row.coverage} {UP}"]
        cells += [number(row.measured["coverage"]["value"]), limits(row.measured["coverage"]["interval"])]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [
        "",
        "Arrows: which way is better. Rows that other judges or rules have read are not comparable.",
        "",
    ]
    lines += [f"- **{note}**" for note in suite_notes(files)]
    said = {(row.benchmark, name): None for row in rows for name in (row.hallucination, row.coverage)}
    meanings = {file.benchmark: file.metrics for file in files.values()}
    lines += [f"- {benchmark}, {name}: {meanings[benchmark][name]}." for benchmark, name in said]
    return "\n".join(lines) + "\n"


def suite_json(
    rows: Sequence[SuiteRow], files: Mapping[str, ScoreFile], settings: Mapping[str, Any] | None
) -> str:
    """Everything, at full precision; `settings` are those under which all questions were answered."""
    content = {
        "answer_settings": settings,
        "rows": [
            {
                "entry": row.entry,
                "benchmark": row.benchmark,
                "read_by": row.read_by,
                **{
                    side: {"metric": metric, "better": better, **row.measured[side]}
                    for side, metric, better in (
                        ("hallucination", row.hallucination, "higher" if row.better == UP else "lower"),
                        ("coverage", row.coverage, "higher"),
                    )
                },
            }
            for row in rows
        ],
        "conditions": {entry: dict(file.scores.conditions) for entry, file in files.items()},
        "counts": {entry: dict(file.scores.counts) for entry, file in files.items()},
        "notes": suite_notes(files),
    }
    return json.dumps(content, indent=1, default=float) + "\n"
