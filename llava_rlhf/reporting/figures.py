"""The figures of a page, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE = "#2563eb"
COLOURS = ("#2563eb", "#b45309", "#15803d", "#7c3aed", "#be123c", "#0e7490", "#1f2937")
BINS = 24


def draw(paint: Callable[[Axes], None], xlabel: str, size: tuple[float, float] = (3.6, 1.9)) -> str:
    """SVG text of one small diagram; `paint` draws on its axes. The same numbers give the same text."""
    import matplotlib  # slow to load, as all of it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(xlabel)
        if xlabel.endswith("step"):
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def line_plot(values: Sequence[float], steps: Sequence[float] | None = None, xlabel: str = "PPO step") -> str:
    """One curve; `steps` are 1, 2, … where not given. A single point is a dot."""
    places = range(1, len(values) + 1) if steps is None else steps
    return draw(lambda axes: axes.plot(places, values, color=BLUE, linewidth=1.4, **_dot(values)), xlabel)


def lines_plot(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], dashed: Sequence[str]) -> str:
    """Several curves (label → steps, values) in one larger diagram; those named in `dashed` are totals."""

    def paint(axes: Axes) -> None:
        for (label, (steps, values)), colour in zip(series.items(), COLOURS, strict=False):
            style = {"linestyle": "--", "linewidth": 2.0} if label in dashed else {"linewidth": 1.4}
            axes.plot(steps, values, color=colour, label=label, **style, **_dot(values))
        axes.axhline(0, color="#6b7280", linewidth=0.6)
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False)

    return draw(paint, "PPO step", (5.4, 3.4))


def bands(steps: Sequence[int], values: Sequence[Sequence[float]]) -> str:
    """The middle 90 %, the middle 50 % and the median of each step's numbers."""
    low, lower, middle, upper, high = percentiles(values)

    def paint(axes: Axes) -> None:
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="5 % to 95 %")
        axes.fill_between(steps, lower, upper, color=BLUE, alpha=0.3, linewidth=0, label="25 % to 75 %")
        axes.plot(steps, middle, color=BLUE, linewidth=1.6, label="median", **_dot(steps))
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False)

    return draw(paint, "PPO step", (3.6, 2.4))


def percentiles(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """5th, 25th, 50th, 75th and 95th percentile (linear between numbers) of each list; none may be empty."""
    columns = [np.percentile(numbers, (5, 25, 50, 75, 95)).tolist() for numbers in values]
    return [list(row) for row in zip(*columns, strict=True)]


def histograms(steps: Sequence[int], values: Sequence[Sequence[float]], xlabel: str) -> str:
    """The distribution at each of a few steps, over the same bins; bars are shares of the step's rollouts."""
    edges, shares = shared_histogram(values)

    def paint(axes: Axes) -> None:
        for step, heights, colour in zip(steps, shares, COLOURS, strict=False):
            axes.stairs(heights, edges, color=colour, linewidth=1.4, label=f"step {step}")
        axes.set_ylabel("share")
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False)

    return draw(paint, xlabel, (3.6, 2.4))


def shared_histogram(values: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Edges of BINS equal bins over all numbers, and for each list the share of its numbers in every bin."""
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(numbers, float) for numbers in values]), BINS)
    shares = [np.histogram(numbers, edges)[0] / len(numbers) for numbers in values]
    return edges.tolist(), [heights.tolist() for heights in shares]


def _dot(values: Sequence[float]) -> dict[str, str]:
    return {"marker": "o"} if len(values) == 1 else {}
