"""The effects of a study as one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_rlhf.ablation.effects import Estimate, contrasts, main_effect
from llava_rlhf.ablation.results import Numbers
from llava_rlhf.reporting.figures import BLUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
GREY = "#6b7280"


def effects_figure(numbers: Numbers, measures: Sequence[str]) -> bytes:
    """PNG: a panel a measure, a row an ingredient; the mean over seeds, its 95 % interval, and a dot for each seed.

    Filled marks: the interval leaves out 0.
    """
    from matplotlib.figure import Figure  # half a second, which who only asks for help need not wait

    asked = contrasts(numbers.results)
    rows = math.ceil(len(measures) / COLUMNS)
    figure = Figure(figsize=(10, rows * (0.9 + 0.3 * len(asked))), layout="constrained", dpi=110)
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    for panel, measure in zip(panels, measures, strict=False):
        for place, contrast in enumerate(asked):
            found = main_effect(numbers.results, contrast, measure)
            if found is not None:
                _mark(panel, -place, found)
        panel.axvline(0, color=GREY, linewidth=0.8)
        panel.set_title(measure, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks([-place for place in range(len(asked))], [contrast.title for contrast in asked])
    for panel in panels[len(measures) :]:
        panel.set_visible(False)
    figure.supxlabel(
        "what the ingredient adds: mean over seeds, 95 % interval (Student's t), one dot a seed", fontsize=8
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _mark(panel: Axes, height: float, found: Estimate) -> None:
    numbers = list(found.per_seed.values())
    panel.plot(numbers, [height - 0.22] * len(numbers), ".", color=GREY, markersize=3)
    if found.interval is not None:
        panel.plot(found.interval, [height] * 2, color=BLUE, linewidth=1.4)
    fill = BLUE if found.sure else "white"
    panel.plot([found.mean], [height], "o", color=BLUE, markerfacecolor=fill, markersize=5)
