"""Data files as JSON values, one at a time: a file may be larger than the memory.

The same files as in `json_files.py`: one JSON list, JSON Lines, or one object with lists in it (annotation files of COCO
and VQA), plain or gzip, UTF-8 with or without a byte order mark.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from data_utils.file_signatures import SEEN, foreign_file
from data_utils.json_files import BadLine, parse_json, unique_keys
from data_utils.json_hints import text_hint

LIST, LINES, OBJECT = "a JSON list", "JSON Lines", "one JSON object"
MAX_VALUE = 1 << 28  # characters of one row; a picture as base64 is a hundredth of that
_CHUNK = 1 << 16  # characters
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ANNOTATIONS = frozenset({"annotations", "questions"})
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def layout(path: str | Path) -> str:
    """`LIST`, `LINES` or `OBJECT`. Raises ValueError, without the file's name, for a file that is none of them."""
    with _opened(path) as file:
        text = _Text(file)
        first = text.peek()
        if not first:
            raise ValueError("is empty")
        if first == "[":
            return LIST
        if first != "{":
            raise ValueError(f"is no JSON{text_hint(text.shown())}")
        return OBJECT if _has_annotations(text) else LINES


def stream_rows(path: str | Path) -> Iterator[Any]:
    """The values of a JSON list, or of JSON Lines (blank lines left out, a line that is no JSON as `BadLine`).

    Raises ValueError, without the file's name, as soon as the file can't be read on.
    """
    if layout(path) == LIST:
        yield from _list_items(path)
        return
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield parse_json(line)
            except ValueError as error:
                yield BadLine(number, line, str(error))


def stream_members(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(key, value) of one JSON object; of a list under a key, (key, item) one by one. Raises ValueError as `stream_rows`."""
    with _opened(path) as file:
        text = _Text(file)
        text.take("{")
        while text.peek() == '"':
            key = text.value()
            text.take(":")
            if text.peek() == "[":
                for item in text.items():
                    yield key, item
            else:
                yield key, text.value()
            if text.peek() == ",":
                text.take(",")
        text.take("}")
        if text.peek():
            raise ValueError(f"is no JSON (something stands behind the object){text_hint(text.shown())}")


def _has_annotations(text: _Text) -> bool:
    """Whether the object that begins here has a list of annotations or questions; what lies behind it is not read."""
    try:
        text.take("{")
        while text.peek() == '"':
            key = text.value()
            text.take(":")
            if key in _ANNOTATIONS and text.peek() == "[":
                return True
            text.value()
            if text.peek() == ",":
                text.take(",")
    except ValueError:
        pass  # a broken line, which is told when the rows are read
    return False


def _list_items(path: str | Path) -> Iterator[Any]:
    with _opened(path) as file:
        text = _Text(file)
        yield from text.items()
        if text.peek():
            raise ValueError(f"is no JSON (something stands behind the list){text_hint(text.shown())}")


@contextmanager
def _opened(path: str | Path) -> Iterator[io.TextIOBase]:
    """The text of a file, unpacked if it is gzip. What goes wrong while it is read is a ValueError, too."""
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            with gzip.open(raw) if packed else raw as content:
                head = content.read(SEEN)
                if (found := foreign_file(head)) is not None:
                    raise ValueError(f"is {found[0]}; {found[1]}")
                if head.startswith(_UTF16):
                    raise ValueError("is UTF-16; save it as UTF-8")
                content.seek(0)
                # Lines end at line feeds only: JSON allows other separators within a string.
                yield io.TextIOWrapper(content, encoding="utf-8-sig", newline="\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"is neither UTF-8 nor gzip ({error})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"is a cut-off or damaged gzip file ({error})") from error
    except OSError as error:
        raise ValueError(f"can't be read ({error.strerror or error})") from error


class _Text:
    """The text of a file from where it has been read to; what lies behind is forgotten."""

    def __init__(self, file: io.TextIOBase):
        self._file, self._buffer, self._at, self._ended = file, "", 0, False

    def peek(self) -> str:
        """The next character that is no space, left where it is; "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at].isspace():
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._read(_CHUNK)

    def take(self, character: str) -> None:
        """Go past this character. Raises ValueError where another stands."""
        if self.peek() != character:
            found = repr(self.peek()) if self.peek() else "the end of the file"
            raise ValueError(f"is no JSON (expected {character!r}, found {found})")
        self._at += 1

    def items(self) -> Iterator[Any]:
        """The values of a list. Raises ValueError, with the number of the value, where it is broken."""
        self.take("[")
        for number in count():
            if self.peek() == "]" and not number:
                break
            try:
                yield self.value()
                if self.peek() == "]":
                    break
                self.take(",")
            except ValueError as error:
                raise ValueError(f"{error}, at value {number} of a list") from None
        self.take("]")

    def value(self) -> Any:
        """The next value. Raises ValueError where there is none."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
                if end < len(self._buffer) or self._ended:  # a number may go on
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._buffer) - 8
                if self._ended or not cut:
                    raise ValueError(f"is no JSON ({error.msg})") from None
            except RecursionError:
                raise ValueError("is no JSON that can be read: nested too deeply") from None
            if len(self._buffer) - self._at > MAX_VALUE:
                raise ValueError(f"holds a value of more than {MAX_VALUE} characters")
            self._read(max(_CHUNK, len(self._buffer) - self._at))

    def shown(self) -> str:
        """What stands here, for a message."""
        return self._buffer[self._at : self._at + 200]

    def _read(self, characters: int) -> None:
        more = self._file.read(characters)
        self._ended = not more
        self._buffer, self._at = self._buffer[self._at :] + more, 0
