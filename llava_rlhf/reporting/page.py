"""The page: figures as pictures, rollouts as data for its script, and nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from tqdm.auto import tqdm

from data_utils.images import browser_copy
from llava_rlhf.reporting.figures import bands, histograms, line_plot, lines_plot
from llava_rlhf.reporting.run_data import RunData
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
DISTRIBUTION_LABELS = {
    "length": "response length in tokens",
    "kl": "KL estimate summed over a response (nats)",
    "score": "score with all terms",
}


def run_page(run: RunData, thumbnails: Mapping[str, str], last_written: str | None) -> str:
    """HTML text of the page.

    Args:
        run: what the folder holds.
        thumbnails: image name → data URL.
        last_written: when the run last wrote its metrics, or None.
    """
    script, style = _asset("run_report.js"), _asset("run_report.css")
    return (
        _environment()
        .get_template("run_report.html.jinja")
        .render(
            run=run,
            written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
            last_written=last_written,
            last_step=max([*run.values, *(line["step"] for line in run.metrics)], default=None),
            policy=_content_policy(script, style),
            script=script,
            style=style,
            decomposition=decomposition(run),
            distributions=distributions(run),
            curves=curves(run),
            settings=json.dumps(run.arguments, indent=1, ensure_ascii=False) if run.arguments else "",
            data={"rows": run.rows, "images": thumbnails},
            steps=sorted({row["step"] for row in run.rows}),
            answer_types=sorted({row["answer_type"] for row in run.rows}),
        )
    )


def decomposition(run: RunData) -> str | None:
    """Mean of every reward term over the steps, as a data URL; None where the metrics have none of them."""
    series = {label: run.series(name) for label, name in DECOMPOSITION.items()}
    series = {label: points for label, points in series.items() if points[0]}
    return _picture(lines_plot(series, dashed=(SCORE, TOTAL))) if series else None


def distributions(run: RunData) -> list[dict[str, str]]:
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
            {"name": over_time, "picture": _picture(bands(steps, list(known.values())))},
            {"name": at_steps, "picture": _picture(histograms(few, [known[step] for step in few], label))},
        ]
    return found


def curves(run: RunData) -> list[dict[str, str]]:
    """One figure for every metric, with its meaning."""
    xlabel = "PPO step" if any(name in run.metric_names() for name in DECOMPOSITION.values()) else "step"
    found = []
    for name in tqdm(run.metric_names(), desc="figures", unit="figure", leave=False, disable=None):
        steps, values = run.series(name)
        found.append(
            {
                "name": name,
                "meaning": meaning_of(name) or "not one of this project's own metrics",
                "last": f"{values[-1]:.4g} at step {steps[-1]}",
                "picture": _picture(line_plot(values, steps, xlabel)),
            }
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


def _picture(svg: str) -> str:
    # As a picture, a figure's styles and ids are its own, and the page can refuse all inline styles.
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _content_policy(script: str, style: str) -> str:
    """What the page may load: pictures inside it, this script and this style; nothing over a network."""
    sources = "; ".join(
        f"{kind}-src '{_digest(text)}'" for kind, text in (("script", script), ("style", style))
    )
    return f"default-src 'none'; img-src data:; {sources}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _asset(name: str) -> str:
    return files("llava_rlhf.reporting").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("llava_rlhf", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
