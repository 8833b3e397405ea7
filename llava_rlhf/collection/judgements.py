"""What annotators said, each judgement a line (`judgements.jsonl`); nothing is ever changed or taken out of the file.

An annotator's last line on a pair holds. Ties, "both bad", withdrawn judgements and replies that could not be read are
lines like any other, so that none of them can turn into a preference unseen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from llava_rlhf.runs.durable_lines import DurableLines


class Verdict(str, Enum):
    """Which answer hallucinates less; the numbers are those of the outputs, wherever they stood on the screen."""

    FIRST = "1"
    SECOND = "2"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    UNREADABLE = "unreadable"  # an AI annotator's reply without a verdict
    WITHDRAWN = "withdrawn"

    @property
    def preference(self) -> int | None:
        """1 or 2; None for every verdict that prefers neither."""
        return int(self.value) if self in (Verdict.FIRST, Verdict.SECOND) else None

    @property
    def counts(self) -> bool:
        """Whether somebody judged: not withdrawn, and readable."""
        return self not in (Verdict.UNREADABLE, Verdict.WITHDRAWN)

    @property
    def mirrored(self) -> Verdict:
        """The verdict on the same answers in the other order."""
        return {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST}.get(self, self)


@dataclass(frozen=True)
class Judgement:
    """One line.

    Attributes:
        row: the pair.
        annotator: who.
        verdict: what.
        comment: why, if they said.
        left: 1 or 2, the output that stood left (or first); None where both orders were asked.
        seconds: from showing to judging, None where nobody looked at a screen.
        time: Unix time.
        human: whether a person judged.
        details: of an AI annotator: verdicts in both orders, whether noise flipped the label; of a person:
            `captions_opened` where they looked at the captions.
    """

    row: int
    annotator: str
    verdict: Verdict
    comment: str = ""
    left: int | None = None
    seconds: float | None = None
    time: float = field(default_factory=time.time)
    human: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """All judgements; threads may share it.

    Raises:
        ValueError: another process has the file open, or it is no file of judgements.
    """

    def __init__(self, path: Path):
        self._lines = DurableLines(path)
        self._lock = threading.Lock()
        self._current: dict[int, dict[str, Judgement]] = {}
        for number, line in enumerate(self._lines.records, 1):
            try:
                self._take(Judgement(**{**line, "verdict": Verdict(line["verdict"])}))
            except (KeyError, TypeError, ValueError) as error:
                self.close()
                raise ValueError(
                    f"{path}, line {number}: no judgement ({error}); move the file away"
                ) from None

    def add(self, judgements: Iterable[Judgement]) -> None:
        """Add judgements; they are on disk when this returns."""
        judgements = list(judgements)
        with self._lock:
            self._lines.append({**asdict(one), "verdict": one.verdict.value} for one in judgements)
            for one in judgements:
                self._take(one)

    def of(self, row: int) -> dict[str, Judgement]:
        """The judgements of a pair that hold, by annotator; withdrawn ones are left out."""
        with self._lock:
            return dict(self._current.get(row, {}))

    def all(self) -> dict[int, dict[str, Judgement]]:
        """The judgements that hold, by row and annotator."""
        with self._lock:
            return {row: dict(by_annotator) for row, by_annotator in self._current.items()}

    def newest_of(self, annotator: str) -> Judgement | None:
        """The last judgement of an annotator that holds."""
        with self._lock:
            theirs = (by[annotator] for by in self._current.values() if annotator in by)
            return max(theirs, key=lambda one: one.time, default=None)

    def close(self) -> None:
        """Let another process have the file."""
        self._lines.close()

    def _take(self, one: Judgement) -> None:
        by_annotator = self._current.setdefault(one.row, {})
        by_annotator.pop(one.annotator, None)
        if one.verdict != Verdict.WITHDRAWN:
            by_annotator[one.annotator] = one
        if not by_annotator:
            del self._current[one.row]
