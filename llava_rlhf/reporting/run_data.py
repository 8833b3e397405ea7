"""What a run folder holds at this moment, also while the run goes on or after it was killed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llava_rlhf.reporting.selection import Bounds, Selection
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.runs.run_record import ARGUMENTS_FILE

# What each term changed in a response's score; `penalized` is the score minus the KL penalty.
TERMS = (
    "score",
    "reward_model",
    "stop_penalty",
    "length_bonus",
    "correct_bonus",
    "kl_penalty",
    "penalized",
)
FACT_TERMS = ("fact_mentions", "fact_coverage")  # of runs with a fact reward
NUMBERS = (*TERMS, *FACT_TERMS, "kl", "length")
VERDICTS = ("right", "wrong", "repeated", "unmentioned", "unsaid")  # of what a response names
WORDS = ("id", "answer_type", "question", "response", "stop_reason")
LISTS = ("image", "captions")
DISTRIBUTIONS = ("length", "kl", "score")
KL_COEF = "objective/kl_coef"


@dataclass
class RunData:
    """Everything the page is made of.

    Attributes:
        folder: of the run.
        metrics: lines of `metrics.jsonl`, each with its `step`, in order of steps.
        arguments: content of `arguments.json`; empty where there is none.
        values: step → name (of DISTRIBUTIONS) → the finite numbers of that step's rollouts.
        valued: step → (value, return) before the first token of that step's rollouts; of runs with a critic.
        rows: the rollouts to show, most telling first; keys: `step`, WORDS, LISTS, NUMBERS
            (None: not known) and `mentions` (start, end, verdict) of the response.
        rollouts: how many there are in all.
        left_out: which rollouts are not shown, as a sentence; empty where all are.
        notes: what is missing, as sentences.
    """

    folder: Path
    metrics: list[dict[str, Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    values: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    valued: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    rollouts: int = 0
    left_out: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    def setting(self, group: str, name: str) -> str | None:
        """A text in `arguments.json`, under the name of its class; None where there is none."""
        settings = self.arguments.get(group)
        value = settings.get(name) if isinstance(settings, Mapping) else None
        return value if isinstance(value, str) else None

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, where it was logged with a finite value."""
        points = [
            (line["step"], line[name]) for line in self.metrics if math.isfinite(_number(line.get(name)))
        ]
        return [step for step, _ in points], [value for _, value in points]

    def metric_names(self) -> list[str]:
        """Names of all numbers in the metrics, in the order of their first appearance."""
        return list(
            dict.fromkeys(
                name
                for line in self.metrics
                for name, value in line.items()
                if name != "step" and math.isfinite(_number(value))
            )
        )


def read_run(folder: Path, bounds: Bounds) -> RunData:
    """Read a run folder.

    Args:
        folder: of a PPO run, or of a `train_reward_model` or `sft_trainer` run, which has no rollouts.
        bounds: how many rollouts are kept.

    Raises:
        ValueError: the folder does not exist, or a file in it is damaged elsewhere than in its last line.
    """
    if not folder.is_dir():
        raise ValueError(f"--run {folder}: there is no such folder; name the --output_dir of a training run")
    run = RunData(folder, metrics=_metrics(folder / "metrics.jsonl", folder))
    run.arguments = _arguments(folder / ARGUMENTS_FILE)
    if _is_cut_off(folder / "metrics.jsonl"):
        run.notes.append(
            "metrics.jsonl: its last line is cut off and left out: the run was killed, or is writing it."
        )
    if not run.metrics:
        run.notes.append("No line of metrics yet: the first one is written when the first step ends.")
    weights = {line["step"]: _number(line.get(KL_COEF)) for line in run.metrics}
    selection = Selection(bounds)
    for step, rows in _steps(folder / "rollouts"):
        pairs = [(_number(row.get("value")), _number(row.get("return"))) for row in rows]
        run.valued[step] = [pair for pair in pairs if all(map(math.isfinite, pair))]
        rows = [_row(step, row, weights.get(step, math.nan)) for row in rows]
        run.rollouts += len(rows)
        run.values[step] = {
            name: [row[name] for row in rows if row[name] is not None] for name in DISTRIBUTIONS
        }
        selection.add(rows)
    run.rows = selection.rows()
    run.notes += _rollout_notes(run)
    if len(run.rows) < run.rollouts:
        run.left_out = f"{selection.sentence()} {run.rollouts - len(run.rows)} are left out."
    return run


def _metrics(path: Path, folder: Path) -> list[dict[str, Any]]:
    lines = [line for line in _objects(path) if "step" in line]
    if not lines and not path.is_file() and not (folder / "rollouts").is_dir():
        known = "metrics.jsonl, rollouts/"
        if not (folder / ARGUMENTS_FILE).is_file():
            raise ValueError(f"--run {folder}: holds none of {known}, {ARGUMENTS_FILE}: not a run folder")
    wrong = next((line["step"] for line in lines if type(line["step"]) is not int), None)
    if wrong is not None:
        raise ValueError(f"{path}: step {wrong!r} is no whole number; restore the file")
    return sorted(lines, key=lambda line: line["step"])


def _is_cut_off(path: Path) -> bool:
    content = path.read_bytes() if path.is_file() else b""
    return content != b"" and not content.endswith(b"\n")


def _arguments(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); restore it or move it away") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}: should be a JSON object; restore it or move it away")
    return arguments


def _steps(folder: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(step, rows) in order of steps. A file that a resuming run deletes meanwhile is skipped."""
    paths = sorted(
        (path for path in folder.glob("*.jsonl") if path.stem.isdecimal()), key=lambda p: int(p.stem)
    )
    for path in paths:
        rows = _objects(path)
        if rows:
            yield int(path.stem), rows


def _objects(path: Path) -> list[dict[str, Any]]:
    lines = read_json_lines(path)
    wrong = [number for number, line in enumerate(lines, 1) if not isinstance(line, dict)]
    if wrong:
        raise ValueError(f"{path}:{wrong[0]}: should be a JSON object; restore the file")
    return lines


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _row(step: int, row: Mapping[str, Any], kl_coef: float) -> dict[str, Any]:
    numbers = {name: _number(row.get(name)) for name in NUMBERS}
    numbers["kl_penalty"] = -kl_coef * numbers["kl"] + 0.0  # + 0.0: no minus zero
    numbers["penalized"] = numbers["score"] + numbers["kl_penalty"]
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    words = {name: str(row.get(name, "")) for name in WORDS}
    lists = {name: [str(item) for item in _list(row.get(name))] for name in LISTS}
    return {"step": step, **words, **lists, **finite, "mentions": _mentions(row, words["response"])}


def _mentions(row: Mapping[str, Any], response: str) -> list[tuple[int, int, str]]:
    """Those that lie in the response, in order, none across another."""
    found, last = [], 0
    for one in _list(row.get("mentions")):
        known = one if isinstance(one, Mapping) else {}
        start, end, verdict = (known.get(name) for name in ("start", "end", "verdict"))
        if type(start) is type(end) is int and last <= start < end <= len(response) and verdict in VERDICTS:
            found.append((start, end, verdict))
            last = end
    return found


def _list(value: Any) -> list[Any]:
    """A list as it is, nothing as an empty one, anything else as its only item."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _rollout_notes(run: RunData) -> list[str]:
    if not run.values:
        ppo = "PPOArguments" in run.arguments
        return ["No rollouts yet: those of a step are written when it ends."] if ppo else []
    notes = []
    missing = sorted({line["step"] for line in run.metrics} - run.values.keys())
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        notes.append(f"Rollouts are missing for {len(missing)} of the steps with metrics: {shown}.")
    return notes


def last_written(folder: Path) -> str | None:
    """When `metrics.jsonl` was last written (UTC), or None."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
