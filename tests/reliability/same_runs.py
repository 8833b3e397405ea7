"""Two run folders must be equal: every weight, every state, every number that no clock made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLOCK = (
    "time/",
    "train_runtime",
    "train_samples_per",
    "train_steps_per",
    "final_runtime",
    "final_samples_per",
)
CLOCK += ("final_steps_per", "eval_runtime", "eval_samples_per", "eval_steps_per")
# The output folder; and how the Trainer was told to stop, which it forgets when it starts.
NOT_COMPARED = {"arguments.json", "best_model_checkpoint", "stateful_callbacks"}


def without_clock(record: Any) -> Any:
    """A JSON value without what depends on the clock or names a folder."""
    if isinstance(record, list):
        return [without_clock(value) for value in record]
    if isinstance(record, dict):
        kept = {key: value for key, value in record.items() if not str(key).startswith(CLOCK)}
        return {key: without_clock(value) for key, value in kept.items() if key not in NOT_COMPARED}
    return record


def content(path: Path) -> Any:
    """What of a file is compared."""
    if path.suffix == ".jsonl":
        return [without_clock(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return without_clock(json.loads(path.read_text()))
    return path.read_bytes()


def files_of(folder: Path) -> dict[str, Path]:
    """Relative name → file."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if path.name not in NOT_COMPARED}


def assert_same_run(folder: Path, expected: Path, checkpoints: bool = True) -> None:
    """The same files with the same content: roles, heads, metrics, rollouts and (unless told) all checkpoints, bit for bit."""
    ours, theirs = files_of(folder), files_of(expected)
    if not checkpoints:
        ours, theirs = (
            {name: path for name, path in files.items() if not name.startswith("checkpoint-")}
            for files in (ours, theirs)
        )
    assert ours.keys() == theirs.keys()
    assert any(name.endswith("adapter_model.safetensors") for name in ours) and "metrics.jsonl" in ours
    different = [name for name in sorted(ours) if content(ours[name]) != content(theirs[name])]
    assert not different
