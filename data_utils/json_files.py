"""Data files as JSON values: one JSON list or JSON Lines, plain or gzip, UTF-8 with or without a byte order mark.

What a file is, is told by its content, never by its name. What the values mean is said in `schema.py` and `answers.py`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.file_signatures import SEEN, foreign_file
from data_utils.json_hints import list_hint, object_hint, text_hint

MAX_UNPACKED = 8 << 30  # bytes; a gzip file of a few MB can hold more than any memory
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class BadLine:
    """A line of JSON Lines (`number` counts from 1) that is no JSON: `reason` says why."""

    number: int
    text: str
    reason: str


class RepeatedKeys(dict):
    """A JSON object that spells some keys more than once; of each the last value is kept."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        seen: set[str] = set()
        self.repeated = {key for key, _ in pairs if key in seen or seen.add(key)}


def read_rows(path: str | Path) -> list[Any]:
    """The values of a JSON list, or of JSON Lines (blank lines left out, a line that is no JSON as `BadLine`).

    Raises ValueError, without the file's name, when the file can't be read or holds neither.
    """
    return [value for _, value in read_placed_rows(path)]


def read_placed_rows(path: str | Path) -> list[tuple[str, Any]]:
    """As `read_rows`, each value with its place: "line 3" of JSON Lines (from 1), "row 2" of a list (from 0)."""
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return _lines(text)
    value = parse_json(text)
    if not isinstance(value, list):
        raise ValueError(f"holds a JSON {type(value).__name__}, not a list of rows")
    return [(f"row {number}", row) for number, row in enumerate(value)]


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises ValueError, without the file's name, when it can't be read."""
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError:
        if _several_objects(text):
            raise ValueError("holds JSON Lines, one object a line, not one object") from None
        raise
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {type(value).__name__}, not an object{list_hint(value)}")
    return value


def repeated_key(value: Any) -> str | None:
    """A key that some object within `value` spells more than once, or None."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, RepeatedKeys):
            return min(item.repeated)
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return None


def read_text(path: str | Path, max_unpacked: int = MAX_UNPACKED) -> str:
    """The text of a UTF-8 file, unpacked if it is gzip. Raises ValueError, without its name, when there is none."""
    content = _read_bytes(Path(path), max_unpacked)
    if (found := foreign_file(content[:SEEN])) is not None:
        raise ValueError(f"is {found[0]}; {found[1]}")
    if content.startswith(_UTF16):
        raise ValueError("is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")  # some editors put a byte order mark in front
    except UnicodeDecodeError as error:
        raise ValueError(f"is neither UTF-8 nor gzip ({error})") from error
    if not text.strip():
        raise ValueError("is empty")
    return text


def _read_bytes(path: Path, max_unpacked: int) -> bytes:
    try:
        with path.open("rb") as file:
            if file.read(len(_GZIP)) != _GZIP:
                file.seek(0)
                return file.read()
            file.seek(0)
            with gzip.open(file) as unpacked:
                content = unpacked.read(max_unpacked + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"is a cut-off or damaged gzip file ({error})") from error
    except OSError as error:
        raise ValueError(f"can't be read ({error.strerror or error})") from error
    if len(content) > max_unpacked:
        raise ValueError(f"unpacks to more than {max_unpacked} bytes; if it is meant to, unpack it first")
    return content


def _lines(text: str) -> list[tuple[str, Any]]:
    values: list[tuple[str, Any]] = []
    # Not `splitlines`, which also splits at characters that JSON allows within a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append((f"line {number}", parse_json(line)))
        except ValueError as error:
            values.append((f"line {number}", BadLine(number, line, str(error))))
    rows = [value for _, value in values]
    if all(isinstance(row, BadLine) for row in rows):
        value = parse_json(text)  # says where the file breaks off, if it is no JSON over several lines
        raise ValueError(f"holds a JSON object, not a list of rows{object_hint(value)}")
    if len(rows) == 1 and isinstance(rows[0], dict) and (hint := object_hint(rows[0])):
        raise ValueError(f"holds a JSON object, not a list of rows{hint}")
    return values


def _several_objects(text: str) -> bool:
    """Whether a text begins with two lines that are objects."""
    lines = [line for line in text.split("\n", 5)[:5] if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(parse_json(line), dict) for line in lines)
    except ValueError:
        return False


def parse_json(text: str) -> Any:
    """The value of a JSON text; objects that spell a key twice are `RepeatedKeys`. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise ValueError("is no JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is no JSON ({error}){text_hint(text)}") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a JSON decoder makes of an object: `RepeatedKeys` where one stands there twice."""
    value = dict(pairs)
    return value if len(value) == len(pairs) else RepeatedKeys(pairs)
