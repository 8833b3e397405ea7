"""A JSON Lines file that grows, survives a kill at any moment, and has one writer."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_rlhf.runs.save_errors import explaining_failures


class DurableLines:
    """Append-only JSON Lines; what `append` returned from is on disk. Threads may share it, processes may not.

    Args:
        path: the file; it and its folder are created.

    Attributes:
        records: what the file held when it was opened; a last line that a kill cut off is removed from it.

    Raises:
        ValueError: another process has it open, or a line is no JSON object.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # Without a buffer: what a full disk refused must not come out with the next line.
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.records = self._recover()
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{path}: another process is writing to it") from None
        except ValueError:
            self._file.close()
            raise

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines and flush them to disk, all or none. Raises SaveError when the file system refuses them."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        # A model or a server may spell half a surrogate pair, which UTF-8 can't.
        waiting = memoryview(text.encode("utf-8", "backslashreplace"))
        with self._lock, explaining_failures(self.path.name, self.path):
            size = os.fstat(self._file.fileno()).st_size
            try:
                while waiting:
                    waiting = waiting[self._file.write(waiting) :]
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(size)
                raise

    def close(self) -> None:
        """Let others write to the file."""
        self._file.close()

    def __enter__(self) -> DurableLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        records = []
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise ValueError(f"{self.path}, line {number}: no JSON object; move the file away")
            records.append(record)
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return records
