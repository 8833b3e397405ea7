"""Score files as the table with which the report on a run begins."""

from __future__ import annotations

from collections.abc import Sequence

from llava_rlhf.evaluation.comparison import Row, check_comparable, compare, group_runs
from llava_rlhf.evaluation.score_files import ALL, read_score_file
from llava_rlhf.reporting.changes import Cell, Measure, Measured
from llava_rlhf.reporting.statistics import RESAMPLES, SEED

SOURCE = (
    "Held-out questions ({benchmark}), {count} of them. Intervals: 95 %, percentile bootstrap over images (or prompts); of "
    "differences paired, item by item, as evaluate compare makes them."
)


def measured(names: Sequence[str], paths: Sequence[str]) -> Measured:
    """Compare the score files of models, the first with all others.

    Raises:
        ValueError: no score file, or files of other benchmarks, conditions or items.
    """
    files = [read_score_file(path) for path in paths]
    benchmarks = list(dict.fromkeys(file.benchmark for file in files))
    if len(benchmarks) > 1:
        raise ValueError(
            f"--scores: files of {' and '.join(benchmarks)}; give files of one benchmark, `evaluate compare` takes several"
        )
    groups = group_runs(list(zip(names, files, strict=True)))
    notes = check_comparable(groups, other_conditions=False, leave_out_missing=False)
    rows = list(compare(groups, RESAMPLES, SEED))
    first = files[0]
    keys = dict.fromkeys((row.category, row.metric) for row in rows)
    measures = [
        Measure(
            metric,
            metric if category == ALL else f"{metric}, {category}",
            first.metrics[metric],
            [
                _cell(row)
                for name in names
                for row in rows
                if (row.category, row.metric, row.run) == (category, metric, name)
            ],
        )
        for category, metric in keys
    ]
    source = SOURCE.format(benchmark=benchmarks[0], count=len(first.scores.items))
    return Measured("On held-out questions", names, measures, source, notes)


def _cell(row: Row) -> Cell:
    return Cell(row.value, row.interval, row.difference)
