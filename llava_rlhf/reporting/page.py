"""What stands on the page of a run, or of several side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from data_utils.images import browser_copy
from llava_rlhf.reporting.changes import Measured
from llava_rlhf.reporting.figures import Figure, bands, calibration, curves, histograms
from llava_rlhf.reporting.health import health
from llava_rlhf.reporting.provenance import Link, differing_settings, origin
from llava_rlhf.reporting.rendering import Figures, render
from llava_rlhf.reporting.run_data import RunData
from llava_rlhf.reporting.training_change import side_by_side, training_change
from llava_rlhf.runs.metrics import meaning_of

THUMBNAIL_SIDE, LOSSLESS_SIDE = 256, 64  # pixels; photographs become JPEG
SCORE, TOTAL = "score with all terms", "score plus KL penalty"
DECOMPOSITION = {
    "reward model": "objective/reward_model",
    "stop penalty": "objective/stop_penalty",
    "length bonus": "objective/length_bonus",
    "correct bonus": "objective/correct_bonus",
    "KL penalty": "objective/non_score_rewards",
    SCORE: "objective/rewards",
    TOTAL: "objective/shaped_rewards",
}
FACT_TERMS = {
    "things named, or claims": "objective/fact_mentions",
    "facts covered": "objective/fact_coverage",
}
DISTRIBUTION_LABELS = {
    "length": "response length in tokens",
    "kl": "KL estimate summed over a response (nats)",
    "score": "score with all terms",
}
CALIBRATION = (
    "What answers earned (scaled) over what the critic expected before their first token: the rollouts of the last half of the "
    "steps in ten equal parts, by value. On the dashed line it is right; a flat curve says that it can't tell answers apart."
)
NOT_HELD_OUT = "in training; no held-out scores were given: --scores BEFORE.json AFTER.json"


def run_page(
    runs: Sequence[RunData],
    held_out: Measured | None,
    thumbnails: Mapping[str, str],
    target: Path,
    beside: Sequence[Link] = (),
) -> str:
    """HTML text of the page.

    Args:
        runs: what the folders hold; of one run everything is shown, of several what can be compared.
        held_out: measurements on held-out questions: before and after, or a column a run.
        thumbnails: image name → data URL.
        target: the file that will be written; links start from it.
        beside: links to other pages.
    """
    alone = runs[0] if len(runs) == 1 else None
    figures, names = Figures(), run_names(runs)
    training = training_change(alone) if alone else side_by_side(runs, names)
    headline, subline = _first_line(names, held_out, training)
    rows = alone.rows if alone else []
    terms = decomposition(alone) if alone else None
    critic = critics_calibration(alone) if alone else None
    return render(
        "reporting/run_report.html.jinja",
        {"rows": rows, "images": thumbnails, "figures": figures.all},
        ["run_report.js"] if rows else [],
        title=f"{', '.join(names)} – run report",
        headline=headline,
        subline=subline,
        origins=[origin(run, name, target, beside) for run, name in zip(runs, names, strict=True)],
        measured=[table for table in (held_out, training) if table is not None],
        checks=[
            (name, health(run, held_out if alone else None)) for name, run in zip(names, runs, strict=True)
        ],
        settings_that_differ=differing_settings([run.arguments for run in runs]),
        decomposition=None if terms is None else figures.add(terms),
        critic=None if critic is None else figures.add(critic),
        critic_meaning=CALIBRATION,
        distributions=_numbered(distributions(alone), figures) if alone else [],
        curves=_numbered(metric_curves(runs, names), figures),
        settings=json.dumps(alone.arguments, indent=1, ensure_ascii=False) if alone else "",
        notes=_notes(runs, names),
        steps=sorted({row["step"] for row in rows}),
        has_facts=any(row["fact_mentions"] is not None for row in rows),
        answer_types=sorted({row["answer_type"] for row in rows}),
    )


def run_names(runs: Sequence[RunData]) -> list[str]:
    """Names of the folders; with the one above where two are alike, and numbered where that does not help either."""
    for names in (
        [run.name for run in runs],
        [f"{run.folder.resolve().parent.name}/{run.name}" for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({place})" for place, run in enumerate(runs, 1)]


def _first_line(
    names: Sequence[str], held_out: Measured | None, training: Measured | None
) -> tuple[str, str]:
    if held_out is not None:
        return held_out.sentence(), "on held-out questions"
    if training is None:
        return f"{', '.join(names)}: nothing has changed yet", "two steps with metrics are needed"
    return training.sentence(), NOT_HELD_OUT


def _notes(runs: Sequence[RunData], names: Sequence[str]) -> list[str]:
    if len(runs) == 1:
        return [*([runs[0].left_out] if runs[0].left_out else []), *runs[0].notes]
    return [f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in run.notes]


def _numbered(found: Iterable[Mapping[str, Any]], figures: Figures) -> list[dict[str, Any]]:
    return [{**entry, "number": figures.add(entry["figure"])} for entry in found]


def decomposition(run: RunData) -> Figure | None:
    """Mean of every reward term over the steps; None where the metrics have none of them."""
    series = {label: run.series(name) for label, name in (DECOMPOSITION | FACT_TERMS).items()}
    series = {label: points for label, points in series.items() if points[0]}
    return curves(series, "PPO step", dashed=(SCORE, TOTAL)) if series else None


def critics_calibration(run: RunData) -> Figure | None:
    """What answers earned beside what the critic expected, over the last half of the steps; None where it says nothing."""
    steps = sorted(step for step, pairs in run.valued.items() if pairs)
    pairs = [pair for step in steps[len(steps) // 2 :] for pair in run.valued[step]]
    values, returns = ([pair[side] for pair in pairs] for side in (0, 1))
    return calibration(values, returns)


def distributions(run: RunData) -> list[dict[str, Any]]:
    """Of length, KL and score: bands over the steps, and histograms of the first, middle and last step."""
    found = []
    for name, label in DISTRIBUTION_LABELS.items():
        known = {step: values[name] for step, values in run.values.items() if values[name]}
        if not known:
            continue
        steps = list(known)
        few = list(dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1])))
        shown = ", ".join(map(str, few))
        over_time, at_steps = f"{label}: each step's rollouts", f"{label}: rollouts of step {shown}"
        found += [
            {"name": over_time, "figure": bands(steps, list(known.values()))},
            {"name": at_steps, "figure": histograms(few, [known[step] for step in few], label)},
        ]
    return found


def metric_curves(runs: Sequence[RunData], names: Sequence[str]) -> list[dict[str, Any]]:
    """One figure for every metric, with its meaning; a curve a run."""
    metrics = dict.fromkeys(metric for run in runs for metric in run.metric_names())
    xlabel = "PPO step" if any(name in metrics for name in DECOMPOSITION.values()) else "step"
    found = []
    for metric in metrics:
        series = {name: run.series(metric) for name, run in zip(names, runs, strict=True)}
        series = {name: points for name, points in series.items() if points[0]}
        last = [
            f"{values[-1]:.4g} at step {steps[-1]}" + (f" ({name})" if len(runs) > 1 else "")
            for name, (steps, values) in series.items()
        ]
        if len(runs) == 1:
            series = {"": next(iter(series.values()))}
        meaning = meaning_of(metric) or "not one of this project's own metrics"
        found.append(
            {"name": metric, "meaning": meaning, "last": ", ".join(last), "figure": curves(series, xlabel)}
        )
    return found


def thumbnails(
    rows: Iterable[Mapping[str, Any]], folder: Path, at_most: int
) -> tuple[dict[str, str], list[str]]:
    """Small copies of the images of the first rows, each once.

    Returns:
        image name → data URL, and sentences on what is not shown.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["image"]))
    copies, unreadable = {}, []
    for name in tqdm(names[:at_most], desc="images", unit="image", leave=False, disable=None):
        try:
            copies[name] = browser_copy(folder, name, THUMBNAIL_SIDE, LOSSLESS_SIDE)
        except ValueError as error:
            unreadable.append(str(error))
    notes = []
    if len(names) > at_most:
        notes.append(f"{at_most} of {len(names)} images are in the page (--max_images); the others by name.")
    if unreadable:
        notes.append(f"{len(unreadable)} images cannot be shown; the first: {unreadable[0]}.")
    return copies, notes
