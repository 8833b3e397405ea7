"""The figures of a page as data, which its script draws: curves, bands and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE = "#2563eb"
BINS = 24
DECILES, RIGHT = 10, "if every value were right"
DIGITS = 6  # of the numbers in the page

Figure = dict[str, Any]


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    dashed: Sequence[str] = (),
) -> Figure:
    """Several curves (label → steps, values); those named in `dashed` are totals. No label: none is shown."""
    lines = [
        {"label": label, "x": list(steps), "y": rounded(values), "dashed": label in dashed}
        for label, (steps, values) in series.items()
    ]
    return {"kind": "lines", "xlabel": xlabel, "series": lines}


def calibration(values: Sequence[float], returns: Sequence[float]) -> Figure | None:
    """Mean return over mean value in ten equal parts of the rollouts, by value, beside the diagonal of a critic that is right.

    None for fewer than ten rollouts, or values without any spread.
    """
    order = np.argsort(values, kind="stable")
    if len(order) < DECILES or values[order[0]] == values[order[-1]]:
        return None
    parts = np.array_split(order, DECILES)
    expected, earned = ([float(np.mean(np.asarray(of)[part])) for part in parts] for of in (values, returns))
    figure = curves({"mean return": (rounded(expected), earned)}, "mean value of a tenth of the rollouts")
    right = {"label": RIGHT, "x": rounded(expected), "y": rounded(expected), "dashed": True}
    return {**figure, "series": [*figure["series"], right], "continuous": True}


def bands(steps: Sequence[int], values: Sequence[Sequence[float]]) -> Figure:
    """The middle 90 %, the middle 50 % and the median of each step's numbers."""
    low, lower, middle, upper, high = map(rounded, percentiles(values))
    common = {"x": list(steps), "dashed": False}
    return {
        "kind": "lines",
        "xlabel": "PPO step",
        "series": [
            {"label": "median", "y": middle, **common},
            {"label": "25 % to 75 %", "y": upper, "low": lower, "shade": "inner", **common},
            {"label": "5 % to 95 %", "y": high, "low": low, "shade": "outer", **common},
        ],
    }


def percentiles(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """5th, 25th, 50th, 75th and 95th percentile (linear between numbers) of each list; none may be empty."""
    columns = [np.percentile(numbers, (5, 25, 50, 75, 95)).tolist() for numbers in values]
    return [list(row) for row in zip(*columns, strict=True)]


def histograms(steps: Sequence[int], values: Sequence[Sequence[float]], xlabel: str) -> Figure:
    """The distribution at each of a few steps, over the same bins; bars are shares of the step's rollouts."""
    edges, shares = shared_histogram(values)
    series = [
        {"label": f"step {step}", "x": rounded(edges), "y": rounded(heights), "dashed": False}
        for step, heights in zip(steps, shares, strict=True)
    ]
    return {"kind": "bars", "xlabel": xlabel, "series": series}


def shared_histogram(values: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Edges of BINS equal bins over all numbers, and for each list the share of its numbers in every bin."""
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(numbers, float) for numbers in values]), BINS)
    shares = [np.histogram(numbers, edges)[0] / len(numbers) for numbers in values]
    return edges.tolist(), [heights.tolist() for heights in shares]


def rounded(values: Sequence[float]) -> list[float]:
    """So many digits as a reader can use; a page holds thousands of numbers."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
