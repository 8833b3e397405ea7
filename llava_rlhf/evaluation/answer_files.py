"""A file of answers that is written batch by batch, survives a kill, and is continued under the same settings only.

answers.jsonl.partial         first line: the settings; then answers, on disk as soon as their batch is answered
answers.jsonl                 the whole file, once every prompt is answered
answers.jsonl.settings.json   how it was made
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_rlhf.runs.durable_lines import DurableLines
from llava_rlhf.runs.run_folder import write_text_whole


class AnswerFile:
    """Answers of one run.

    Args:
        path: the file.
        settings: everything that the answers depend on, ready for JSON.

    Raises:
        ValueError: answers that were begun under other settings are there.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]):
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings, default=str))
        self._partial = self.path.with_name(self.path.name + ".partial")
        if self.path.is_dir():
            raise ValueError(f"--output_file {path}: is a folder")
        if self._partial.is_file():
            first, newline, _ = self._partial.read_text(encoding="utf-8", errors="replace").partition("\n")
            self._check(first if newline else "")

    @property
    def complete(self) -> bool:
        """Whether the whole file is there, made under these settings."""
        return self.path.is_file() and read_settings(self.path) == self.settings

    def write(self, answer_from: Callable[[int], Iterable[Sequence[Mapping[str, Any]]]]) -> None:
        """Continue where the file stops, or begin.

        Args:
            answer_from: number of answers that are there → the batches of answers that follow.

        Raises:
            ValueError: another process is writing, or wrote under other settings in the meantime.
        """
        with DurableLines(self._partial) as lines:
            if lines.records:
                self._check(json.dumps(lines.records[0]))
            else:
                lines.append([{"settings": self.settings}])
            for batch in answer_from(max(len(lines.records) - 1, 0)):
                lines.append(batch)
            text = self._partial.read_text(encoding="utf-8").partition("\n")[2]
            # In this order, a kill leaves no file with the settings of another one.
            settings_file(self.path).unlink(missing_ok=True)
            write_text_whole(self.path, text)
            write_text_whole(settings_file(self.path), json.dumps(self.settings, indent=2) + "\n")
            self._partial.unlink()

    def _check(self, first_line: str) -> None:
        if not first_line:
            return  # killed before a first line was written
        try:
            begun = json.loads(first_line)["settings"]
            differing = [
                f"{name} was {begun.get(name)!r}, now {self.settings.get(name)!r}"
                for name in sorted({*begun, *self.settings})
                if begun.get(name) != self.settings.get(name)
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            differing = ["its first line holds no settings"]
        if differing:
            raise ValueError(
                f"{self._partial} was begun under other settings: {'; '.join(differing)}. Go on with those, or "
                "delete it, or choose another --output_file (of a suite: --output_dir)"
            )


def settings_file(path: str | Path) -> Path:
    """Where the settings of a whole answers file stand."""
    return Path(f"{path}.settings.json")


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """How an answers file was made; None for a file of another origin. Raises ValueError where that can't be read."""
    file = settings_file(path)
    if not file.is_file():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: no settings of an answers file; move it away")
    return settings


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
