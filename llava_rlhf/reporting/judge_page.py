"""What stands on the page of a judge's quality: the table by answer type, three figures, and the pairs it got most wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_rlhf.reporting.figures import Figure, curves, rounded, shared_histogram
from llava_rlhf.reporting.judge_quality import JudgeQuality, judge_checks, type_rows
from llava_rlhf.reporting.page import metric_curves
from llava_rlhf.reporting.provenance import origin
from llava_rlhf.reporting.rendering import Figures, render
from llava_rlhf.reporting.run_data import RunData

CONFIDENCE = "mean sigmoid(|margin|) of a tenth of its range"
LENGTH = "characters by which the preferred response is longer"
MARGIN = "score of the preferred response less that of the other"


def judge_page(
    quality: JudgeQuality, run: RunData | None, thumbnails: Mapping[str, str], target: Path
) -> str:
    """HTML text of the page.

    Args:
        quality: of the judge.
        run: the run that trained it, whose settings and curves stand on the page too.
        thumbnails: image name → data URL.
        target: the file that will be written; links start from it.
    """
    figures = Figures()
    drawn = {name: figures.add(figure) for name, figure in judge_figures(quality).items()}
    names = [] if run is None else [run.name]
    trained = [] if run is None else metric_curves([run], names)
    return render(
        "reporting/judge_report.html.jinja",
        {"figures": figures.all},
        title=f"{', '.join(names) or 'reward model'} – judge quality",
        headline=quality.sentence(),
        subline=quality.source,
        origins=[] if run is None else [origin(run, run.name, target)],
        checks=[("", judge_checks(quality))],
        types=type_rows(quality),
        lengths=quality.lengths,
        meanings=quality.meanings,
        drawn=drawn,
        curves=[{**entry, "number": figures.add(entry["figure"])} for entry in trained],
        worst=[asdict(pair) for pair in quality.worst],
        pairs=quality.pairs,
        images=thumbnails,
        notes=[*quality.notes, *([] if run is None else run.notes)],
    )


def judge_figures(quality: JudgeQuality) -> dict[str, Figure]:
    """`margins`, `confidence` and `length`; the last only where lengths vary enough."""
    edges, (shares,) = shared_histogram([quality.margins])
    bars = {"label": "share of the pairs", "x": rounded(edges), "y": rounded(shares), "dashed": False}
    found: dict[str, Figure] = {"margins": {"kind": "bars", "xlabel": MARGIN, "series": [bars]}}
    sure = [confidence for confidence, _, _ in quality.bins]
    found["confidence"] = _with_reference(
        "share that is right",
        sure,
        [right for _, right, _ in quality.bins],
        "if it were as right as it is sure",
        sure,
        CONFIDENCE,
    )
    if quality.by_length:
        longer = [difference for difference, _ in quality.by_length]
        overall = quality.table["all"]["accuracy"]["value"]
        found["length"] = _with_reference(
            "accuracy",
            longer,
            [right for _, right in quality.by_length],
            "of all pairs",
            [overall] * len(longer),
            LENGTH,
        )
    return found


def _with_reference(
    label: str, x: Sequence[float], y: Sequence[float], reference: str, level: Sequence[float], xlabel: str
) -> Figure:
    figure = curves({label: (rounded(x), y)}, xlabel)
    dashed: dict[str, Any] = {"label": reference, "x": rounded(x), "y": rounded(level), "dashed": True}
    return {**figure, "series": [*figure["series"], dashed], "continuous": True}
