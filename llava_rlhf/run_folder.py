"""Files of a run folder that a person can open: `arguments.json`, `metrics.jsonl`, `rollouts/000010.jsonl`."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "datasets")

logger = logging.getLogger(__name__)


def write_arguments(output_dir: str | Path, settings: Iterable[Any]) -> None:
    """Write every setting, the git commit and the package versions to `arguments.json`."""
    record: dict[str, Any] = {type(item).__name__: _plain(item) for item in settings}
    record["environment"] = environment()
    path = Path(output_dir) / "arguments.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, json.dumps(record, indent=2, sort_keys=True, default=str) + "\n")


def environment() -> dict[str, str | None]:
    """Git commit (None outside a checkout), Python and package versions."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    versions["git_commit"] = git.stdout.strip() or None
    return versions


def write_text_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that readers never see half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class JsonLines:
    """An append-only file of one JSON object a line, flushed after each.

    Args:
        path: the file; its folder is created.
        resume_step: lines with a larger `step` are from steps that will be done again, and are removed.
    """

    def __init__(self, path: str | Path, resume_step: int = 0):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = (
            [line for line in read_json_lines(self.path) if line["step"] <= resume_step]
            if resume_step
            else []
        )
        write_text_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file; a last line cut off by a kill is left out; a missing file is empty."""
    if not Path(path).is_file():
        return []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise
            logger.warning("%s: its last line is cut off and left out", path)
    return records


def write_rollouts(output_dir: str | Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rollouts of one step, whole or not at all, to `rollouts/<step>.jsonl`."""
    path = Path(output_dir) / "rollouts" / f"{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def delete_rollouts(output_dir: str | Path, after: int) -> None:
    """Delete the rollouts of steps above `after`: they will be sampled again, or are from an earlier run."""
    for path in (Path(output_dir) / "rollouts").glob("*.jsonl"):
        if path.stem.isdigit() and int(path.stem) > after:
            path.unlink()


def _plain(item: Any) -> dict[str, Any]:
    if hasattr(item, "to_sanitized_dict"):  # transformers.TrainingArguments: leaves tokens out
        return item.to_sanitized_dict()
    return {
        key: value.value if isinstance(value, enum.Enum) else value
        for key, value in dataclasses.asdict(item).items()
    }
