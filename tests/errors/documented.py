"""The table of docs/errors.md as data: what each test of this folder must see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.house.test_departures_table import tables

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "errors.md"
HEADER = ["what goes wrong", "what you see", "what to do", "`--skip_invalid`", "test"]
SKIPPED = {"drops it", "–", "always dropped"}  # – : refused all the same, or nothing to drop


@dataclass(frozen=True)
class Row:
    """One row; `message` is the text in backticks, in which `…` stands for any text, or `accepted`."""

    problem: str
    message: str
    remedy: str
    skipped: str
    test: str

    @property
    def accepted(self) -> bool:
        """Whether nothing goes wrong at all."""
        return self.message.startswith("accepted")

    @property
    def pattern(self) -> str:
        """The message as a regular expression."""
        text = self.message.strip("`").replace("\\|", "|")
        return "(?s)" + ".*".join(re.escape(part) for part in text.split("…"))


@cache
def rows() -> dict[str, Row]:
    """Test (`tests/errors/test_x.py::test_documented[id]`) → row."""
    found = [
        Row(*row)
        for header, body in tables(DOCUMENT.read_text(encoding="utf-8"))
        for row in body
        if header == HEADER
    ]
    return {row.test.strip("`"): row for row in found}


def documented(module_file: str, case: str) -> Row:
    """The row of a case of the module."""
    return rows()[f"tests/errors/{Path(module_file).name}::test_documented[{case}]"]
