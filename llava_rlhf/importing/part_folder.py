"""The folder of an import while it goes on: files that only grow, and how far the rows were read.

It lies beside the new folder as `<name>.part` and becomes it when the last row is read. A process that is killed leaves it;
the next one cuts the files off where the place says, and goes on from there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.save_errors import explaining_failures

PLACE = "place.json"
_SAVED_EVERY = 2000  # rows


def part_path(output: Path) -> Path:
    """Where the parts of a new folder lie until it is whole."""
    return output.with_name(f"{output.name}.part")


def read_place(output: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far an earlier import into `output` came; None where there was none.

    Raises ValueError where it was another one: its settings or files are not those of `identity`.
    """
    folder = part_path(output)
    if not folder.exists():
        return None
    try:
        place = json.loads((folder / PLACE).read_text("utf-8"))
        then = place["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder} is in the way and holds no import that could go on: remove it") from None
    for key, now in identity.items():
        if then.get(key) != now:
            raise ValueError(
                f"{folder} is of an import with other settings or files ({key}: then {then.get(key)}, now {now}): remove "
                "it to begin anew, or name another --output_dir"
            )
    return place


class PartFolder:
    """Growing files in `<output>.part`.

    Args:
        output: the new folder.
        identity: settings and files of the import, ready for JSON.
        place: of `read_place`; None: begin.

    Attributes:
        file, row: what is read next.
        counts: of rows, and of what became of them.
        pictures: which kind of pictures there was.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], place: Mapping[str, Any] | None):
        self.output, self.folder, self._identity = output, part_path(output), dict(identity)
        place = place or {}
        self.file, self.row = place.get("file", 0), place.get("row", 0)
        self.counts: Counter[str] = Counter(place.get("counts", {}))
        self.pictures: str = place.get("pictures", "")
        self._sizes: dict[str, int] = dict(place.get("sizes", {}))
        self._files: dict[str, BinaryIO] = {}
        self._unsaved = 0
        with explaining_failures(output.name, output):
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("*.jsonl"):  # what was written after the place was
                os.truncate(path, self._sizes.get(path.name, 0))
        self.save()

    def __enter__(self) -> PartFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.save()
        finally:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def append(self, name: str, record: Any) -> None:
        """Add a line to a file; it counts once `advance` was called."""
        with explaining_failures(self.output.name, self.output):
            if name not in self._files:
                self._files[name] = (self.folder / name).open("ab")
            self._files[name].write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def advance(self, file: int, row: int, pictures: str) -> None:
        """A row is done, and all that came of it is written: `row` of `file` is the next one."""
        self.file, self.row, self.pictures = file, row, pictures
        self._sizes |= {name: file.tell() for name, file in self._files.items()}
        self._unsaved += 1
        if self._unsaved >= _SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Bring everything to disk, the place last."""
        with explaining_failures(self.output.name, self.output):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        place = {
            "identity": self._identity,
            "file": self.file,
            "row": self.row,
            "sizes": self._sizes,
            "counts": dict(self.counts),
            "pictures": self.pictures,
        }
        write_text_whole(self.folder / PLACE, json.dumps(place, indent=1) + "\n")
        self._unsaved = 0

    def lines(self, name: str) -> Iterator[Any]:
        """What was added to a file so far."""
        if name in self._files:
            self._files[name].flush()
        path = self.folder / name
        if path.is_file():
            with path.open("rb") as file:
                yield from map(json.loads, file)

    def publish(self, record: Mapping[str, Any], record_name: str, leaving: Sequence[str]) -> None:
        """Make it the new folder, with `record` as a file in it and without the files in `leaving`."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        write_text_whole(self.folder / record_name, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        with explaining_failures(self.output.name, self.output):
            os.sync()  # pictures, of which there may be a million
            for name in (*leaving, PLACE):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rename(self.output)
