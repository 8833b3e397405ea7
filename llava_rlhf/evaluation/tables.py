"""A comparison as Markdown, LaTeX and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from llava_rlhf.evaluation.comparison import Comparison, Row
from llava_rlhf.evaluation.score_files import limits, number

HEADS = (
    "benchmark",
    "part",
    "metric",
    "run",
    "value",
    "95 % interval",
    "difference",
    "95 % interval",
    "p",
)


def markdown(comparison: Comparison, meanings: Mapping[str, Mapping[str, str]], first: str) -> str:
    """A table, what its columns mean, and its notes.

    Args:
        comparison: rows and notes.
        meanings: benchmark → metric → one sentence.
        first: name of the run that the others are compared with.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in _cells(comparison.rows)]
    lines = [f"| {' | '.join(row)} |" for row in (HEADS, ["---"] * 4 + ["---:"] * 5, *cells)]
    lines += ["", _legend(first), ""]
    lines += [f"- **{note}**" for note in comparison.notes]
    lines += [
        f"- {benchmark}, {name}: {text}."
        for benchmark, metrics in meanings.items()
        for name, text in metrics.items()
    ]
    return "\n".join(lines) + "\n"


def latex(comparison: Comparison, first: str) -> str:
    """A `tabular` for the package booktabs, with the notes as comments above it."""
    cells = [[_escape(cell) for cell in row] for row in _cells(comparison.rows)]
    lines = [f"% {note}" for note in (_legend(first), *comparison.notes)]
    lines += [
        r"\begin{tabular}{llllrrrrr}",
        r"\toprule",
        " & ".join(map(_escape, HEADS)) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(row) + r" \\" for row in cells]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_json(comparison: Comparison, meanings: Mapping[str, Mapping[str, str]], first: str) -> str:
    """Everything, at full precision."""
    content = {
        "compared_with": first,
        "notes": list(comparison.notes),
        "metrics": {benchmark: dict(metrics) for benchmark, metrics in meanings.items()},
        "rows": [asdict(row) for row in comparison.rows],
    }
    return json.dumps(content, indent=1) + "\n"


def _legend(first: str) -> str:
    return (
        f"Differences are to {first}, item by item. Intervals: percentile bootstrap over images (or prompts). p: two-sided, "
        "from swapping the two runs within each of them at random; not corrected for the number of rows."
    )


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    table = []
    for row in rows:
        compared = ["", "", ""]
        if row.difference is not None:
            p_value = row.difference.p_value
            compared = [
                number(row.difference.value, "+.3f"),
                limits(row.difference.interval, "+.3f"),
                "–" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
            ]
        value = [number(row.value), limits(row.interval)]
        table.append([row.benchmark, row.category, row.metric, row.run, *value, *compared])
    return table


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _escape(text: str) -> str:
    # A cell that begins with [ would be read as an option of the line break before it.
    escaped = re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped
