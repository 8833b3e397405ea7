"""What is wrong with data, in words: file, row, field, value and remedy; and the error that lists it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Problem:
    """One reason why a row (or, with `row` None, a file) cannot be used.

    Problems of one file with the same `alike` come from how the file was made, and are told together.
    """

    file: str
    row: int | None
    field: str
    value: str
    remedy: str
    alike: str = ""

    def __str__(self) -> str:
        return self.told(1)

    def told(self, rows: int) -> str:
        """The problem in words, where so many rows have one like it."""
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        more = f" and {rows - 1} more like it" if rows > 1 else ""
        return f"{place}{more}, field {self.field!r}: value {self.value} — {self.remedy}"


class DataError(ValueError):
    """Data that cannot be used; the message lists the first problems and their total number."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{count} problem{'' if count == 1 else 's'} in the data:"]
        groups: dict[Any, list[Problem]] = {}
        for number, problem in enumerate(self.problems):
            groups.setdefault((problem.file, problem.alike) if problem.alike else number, []).append(problem)
        shown = list(groups.values())[:SHOWN_PROBLEMS]
        lines += [f"  {group[0].told(len(group))}" for group in shown]
        left = count - sum(map(len, shown))
        if left:
            lines.append(f"  … and {left} more")
        super().__init__("\n".join(lines))


def unreadable(path: str | Path, error: ValueError, expected: str) -> Problem:
    """The problem of a file that can't be read as what it must be."""
    return Problem(str(path), None, "file", shorten_text(str(error)), f"must be {expected}")


def shorten(value: Any, width: int = 80) -> str:
    """`repr(value)`, cut in the middle to at most `width` characters."""
    text = repr(value)
    if len(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def shorten_text(text: str, width: int = 160) -> str:
    """`text`, cut off at `width` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def is_unicode(text: str) -> bool:
    """Whether a string is valid Unicode: JSON can spell half a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:  # of a surrogate: there is nothing else that UTF-8 can't spell
        return False
    return True
