"""The studies' pictures: means over seeds with 95 % intervals (Student's t)."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.facts.studies import BEGINNING, GOLD, KL_LEVELS
from benchmarks.facts.tables import Found
from llava_rlhf.ablation.effects import Estimate
from llava_rlhf.reporting.figures import BLUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"factual": BLUE, "plain": "#dc2626", "oracle": "#6b7280", "mentions + coverage": "#16a34a"}
MARKS = "osD^vPX*"


def best_of_n(found: Found) -> bytes:
    """Gold, hallucination, recall and proxy against n."""
    figure, panels = _figure(4)
    for panel, name in zip(panels, (*GOLD, "proxy"), strict=True):
        for arm in found:
            numbers = _at(found[arm], name)
            _line(panel, numbers, arm, COLOURS.get(arm))
        panel.set_xscale("log", base=2)
        panel.set(title=name, xlabel="n")
    panels[0].legend(fontsize=8)
    return _png(figure)


def pairs(found: Found) -> bytes:
    """Accuracy on held-out pairs against pairs of the training."""
    figure, panels = _figure(2)
    for panel, measure in zip(panels, ("accuracy", "descriptions"), strict=True):
        for kind in ("factual", "plain"):
            numbers = {
                float(arm.removeprefix(f"{kind}-")): values[measure]
                for arm, values in found.items()
                if arm.startswith(f"{kind}-")
            }
            _line(panel, numbers, kind, COLOURS[kind])
        panel.set_xscale("log")
        panel.set(
            title={"accuracy": "all held-out pairs"}.get(measure, measure), xlabel="pairs", ylabel="accuracy"
        )
    panels[0].legend(fontsize=8)
    return _png(figure)


def pareto(found: Found) -> bytes:
    """Hallucination against recall; up and to the left is better. Where all began is far away, and told in the title."""
    figure, panels = _figure(2)
    for panel, way in zip(panels, ("sampled", "greedy"), strict=True):
        title = way
        for place, (arm, values) in enumerate(found.items()):
            across, up = (_estimate(values[f"{name} {way}"]) for name in ("hallucination", "recall"))
            if arm == BEGINNING:
                title += f" (from {across[0]:.2f}, {up[0]:.2f})"
                continue
            panel.errorbar(
                *(across[0], up[0]),
                xerr=across[1],
                yerr=up[1],
                fmt=MARKS[place % len(MARKS)],
                label=arm,
                capsize=2,
                linewidth=1,
            )
        panel.set_title(title, fontsize=9)
        panel.set(xlabel="hallucination", ylabel="recall")
    panels[0].legend(fontsize=6)
    return _png(figure)


def long_ppo(found: Found) -> bytes:
    """Gold, proxy, hallucination and recall against √KL."""
    figure, panels = _figure(4)
    few = min(int(arm.split("-")[1]) for arm in found if "-" in arm)
    for panel, name in zip(panels, (*GOLD, "proxy"), strict=True):
        for arm, values in found.items():
            numbers = {
                level**0.5: values[f"{name}@{level}"] for level in KL_LEVELS if f"{name}@{level}" in values
            }
            style = "--" if arm.endswith(f"-{few}") else "-"
            _line(panel, numbers, arm, COLOURS.get(arm.split("-")[0]), style)
        panel.set(title=name, xlabel="√KL (nats)")
    panels[0].legend(fontsize=8)
    return _png(figure)


FIGURES: Mapping[str, Callable[[Found], bytes]] = {
    "best_of_n": best_of_n,
    "pairs": pairs,
    "pareto": pareto,
    "long_ppo": long_ppo,
}


def _figure(count: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # half a second, which who only asks for help need not wait

    figure = Figure(figsize=(2.9 * count + 1, 3.2), layout="constrained", dpi=110)
    panels = figure.subplots(1, count)
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _line(
    panel: Axes,
    numbers: Mapping[float, Mapping[int, float]],
    label: str,
    colour: str | None,
    style: str = "-",
) -> None:
    places = sorted(numbers)
    means, reaches = (
        zip(*(_estimate(numbers[place]) for place in places), strict=True) if places else ((), ())
    )
    panel.errorbar(
        places, means, yerr=reaches, label=label, color=colour, linestyle=style, marker=".", capsize=2
    )


def _at(values: Mapping[str, Mapping[int, float]], name: str) -> dict[float, Mapping[int, float]]:
    return {
        float(measure.partition("@")[2]): numbers
        for measure, numbers in values.items()
        if measure.startswith(f"{name}@")
    }


def _estimate(numbers: Mapping[int, float]) -> tuple[float, float]:
    """Mean, and half of its interval; 0 for one seed."""
    estimate = Estimate(numbers, len(numbers))
    return estimate.mean, 0.0 if estimate.interval is None else estimate.interval[1] - estimate.mean


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
