"""What was measured, a column a model: values with their intervals, differences to the first column, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llava_rlhf.reporting.statistics import Difference

# Metrics of the benchmarks and of training of which less is better.
LOWER_IS_BETTER = frozenset("hallucination false_share chair_s chair_i unclear loss eval_loss".split())
MINUS = "\N{MINUS SIGN}"
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One number of one model.

    Attributes:
        value: None where nothing says anything of it.
        interval: its 95 % interval.
        difference: to the first column; None in the first column itself.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    difference: Difference | None = None

    @property
    def value_text(self) -> str:
        """The value, short."""
        return short(self.value)

    @property
    def interval_text(self) -> str:
        """The interval of the value in brackets, or nothing."""
        return "" if self.interval is None else limits(self.interval)

    @property
    def difference_text(self) -> str:
        """The difference with its sign, or nothing in the first column."""
        return "" if self.difference is None else short(self.difference.value, signed=True)

    @property
    def difference_interval_text(self) -> str:
        """The interval of the difference in brackets, or nothing."""
        known = self.difference is not None and self.difference.interval is not None
        return limits(self.difference.interval, signed=True) if known else ""


@dataclass(frozen=True)
class Measure:
    """One metric of every column.

    Attributes:
        name: as it is logged or scored, by which it is known whether less is better.
        title: what the reader is told.
        meaning: one sentence.
        cells: one a column.
    """

    name: str
    title: str
    meaning: str
    cells: Sequence[Cell]

    @property
    def lower_is_better(self) -> bool:
        """Whether a fall is an improvement."""
        return self.name in LOWER_IS_BETTER

    def improved(self) -> bool | None:
        """Whether the last column is better than the first beyond chance; None where its interval holds 0 or is unknown."""
        found = self.cells[-1].difference
        if found is None or found.interval is None or found.interval[0] <= 0 <= found.interval[1]:
            return None
        return (found.interval[1] < 0) == self.lower_is_better


@dataclass(frozen=True)
class Measured:
    """A table of measures; the first one is what the page begins with.

    Attributes:
        title: of the table.
        columns: names of the models, the one that all others are compared with first.
        measures: the rows.
        source: on what, and how the intervals were made: a sentence below the table.
        notes: what must be said beside it.
    """

    title: str
    columns: Sequence[str]
    measures: Sequence[Measure]
    source: str
    notes: Sequence[str] = field(default_factory=tuple)

    def sentence(self) -> str:
        """The first measure in one line: "recall .512 → .665 (+.153, 95 % interval [+.117, +.190])"."""
        first = self.measures[0]
        if len(self.columns) == 2:
            before, after = first.cells
            return f"{first.title} {before.value_text} → {after.value_text}{_change(after)}"
        told = [
            f"{name} {cell.value_text}{_change(cell)}"
            for name, cell in zip(self.columns, first.cells, strict=True)
        ]
        return f"{first.title}: {', '.join(told)}"


def short(value: float | None, signed: bool = False) -> str:
    """Three decimals below 1, without a leading zero; two above; a real minus sign; – for no number.

    >>> short(0.3483), short(-0.5, signed=True), short(12.634), short(0.0)
    ('.348', '−.500', '12.63', '0')
    """
    if value is None:
        return NONE
    digits = 3 if abs(value) < 1 else 2
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return "0"
    sign = MINUS if value < 0 else "+" if signed else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def limits(interval: tuple[float, float], signed: bool = False) -> str:
    """An interval in brackets."""
    return f"[{short(interval[0], signed)}, {short(interval[1], signed)}]"


def _change(cell: Cell) -> str:
    if cell.difference is None or cell.difference.value is None:
        return ""
    interval = cell.difference_interval_text
    return f" ({cell.difference_text}{f', 95 % interval {interval}' if interval else ''})"
