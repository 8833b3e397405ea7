"""Files of a run folder that a person can open: `arguments.json`, `metrics.jsonl`, `rollouts/000010.jsonl`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, AnyStr

from llava_rlhf.runs.run_record import ARGUMENTS_FILE, record_text
from llava_rlhf.runs.save_errors import explaining_failures

logger = logging.getLogger(__name__)


def write_arguments(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run (`run_record`) to `arguments.json`."""
    path = Path(folder) / ARGUMENTS_FILE
    with explaining_failures("the run's settings", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, record_text(record))


def write_text_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that readers never see half of it."""
    write_bytes_whole(path, text.encode("utf-8"))


def write_bytes_whole(path: Path, content: bytes) -> None:
    """The same for a file that is no text."""
    temporary = path.with_name(path.name + ".tmp")
    with explaining_failures(path.name, path):
        with temporary.open("wb") as file:
            _write_through(file, content)
        os.replace(temporary, path)


class JsonLines:
    """An append-only file of one JSON object a line, flushed after each.

    Args:
        path: the file; its folder is created.
        kept: so many first lines stay; the rest is from steps that will be done again, or from an earlier run.

    Attributes:
        lines: how many the file holds.
    """

    def __init__(self, path: str | Path, kept: int = 0):
        self.path = Path(path)
        with explaining_failures(self.path.name, self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        *whole, _ = _split_lines(self.path) if self.path.is_file() else [b""]
        self.lines = len(whole[:kept])
        write_text_whole(self.path, "".join(f"{line.decode()}\n" for line in whole[:kept]))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line. Raises SaveError when the file system refuses it."""
        with explaining_failures(self.path.name, self.path), self.path.open("a", encoding="utf-8") as file:
            _write_through(file, json.dumps(record, ensure_ascii=False) + "\n")
        self.lines += 1


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file; a last line cut off by a kill is left out; a missing file is empty.

    Raises ValueError, naming file and line, for one before the last that is no JSON.
    """
    if not Path(path).is_file():
        return []
    lines = _split_lines(Path(path))
    if not lines[-1]:
        lines.pop()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line.decode()))
        except (RecursionError, ValueError) as error:  # also half a character
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: is not JSON ({error}); restore the file") from None
            logger.warning("%s: its last line is cut off and left out", path)
    return records


def write_rollouts(output_dir: str | Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rollouts of one step, whole or not at all, to `rollouts/<step>.jsonl`."""
    path = Path(output_dir) / "rollouts" / f"{step:06d}.jsonl"
    with explaining_failures("the rollouts", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def delete_rollouts(output_dir: str | Path, after: int) -> None:
    """Delete the rollouts of steps above `after`: they will be sampled again, or are from an earlier run."""
    for path in (Path(output_dir) / "rollouts").glob("*.jsonl"):
        if path.stem.isdecimal() and int(path.stem) > after:
            path.unlink()


def _split_lines(path: Path) -> list[bytes]:
    """What stands before, between and behind the line feeds: a response may hold U+2028, which ends no line."""
    return path.read_bytes().split(b"\n")


def _write_through(file: IO[AnyStr], content: AnyStr) -> None:
    """Write to the disk: a checkpoint that is made later counts on it."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
