"""What people write by hand: tables (CSV with a header line) and lists (text, one item a line)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_utils.json_files import read_text
from data_utils.problems import Problem, shorten, unreadable


@dataclass(frozen=True)
class TableRow:
    """One row of a table, without the spaces around its cells.

    Attributes:
        file: the table.
        line: number of the row as a spreadsheet shows it; the header is row 1.
        cells: column → text.
    """

    file: str
    line: int
    cells: dict[str, str]

    def problem(self, column: str, remedy: str) -> Problem:
        """What is wrong with a cell of this row."""
        return Problem(self.file, self.line, column, shorten(self.cells[column]), remedy)


def read_table(path: str | Path, columns: Sequence[str]) -> tuple[list[TableRow], list[Problem]]:
    """Read the named columns of a CSV file (UTF-8, separated by commas, gzip or not); further columns are ignored.

    Rows without any text are left out; a row that lacks a cell, or whose cell is empty, becomes a problem.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        expected = f"a readable CSV file in UTF-8 with the columns {', '.join(columns)}"
        return [], [unreadable(path, ValueError(str(error)), expected)]
    header = [name.strip() for name in lines[0]]
    for column in columns:
        if header.count(column) != 1:
            remedy = f"the first line must name the column {column} once, separated from others by commas"
            return [], [Problem(str(path), 1, column, shorten(",".join(header)), remedy)]
    rows, problems = [], []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            remedy = (
                f'has {len(cells)} cells under {len(header)} columns; write "…" around a text with commas'
            )
            problems.append(Problem(str(path), number, "row", shorten(",".join(cells)), remedy))
            continue
        named = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        row = TableRow(str(path), number, {column: named.get(column, "") for column in columns})
        empty = [row.problem(column, "must not be empty") for column in columns if not row.cells[column]]
        problems += empty
        rows += [] if empty else [row]
    return rows, problems


def read_list(path: str | Path) -> tuple[list[tuple[int, str]], list[Problem]]:
    """(line number from 1, text) of every line of a text file (UTF-8) that is neither blank nor starts with #."""
    try:
        text = read_text(path)
    except ValueError as error:
        return [], [unreadable(path, error, "a readable text file in UTF-8, one item a line")]
    return list(_items(text)), []


def _items(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()
