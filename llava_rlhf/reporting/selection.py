"""Which rollouts a page shows when it cannot show all."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """How many rollouts are shown.

    Attributes:
        per_step: of each step, half of them (rounded up) its lowest scores and the rest its highest.
        whole_steps: so many last steps are shown whole.
        total: never more than this.
        of_the_run: so many of the run's lowest scores, and as many of its highest, come before all others.
    """

    per_step: int = 16
    whole_steps: int = 2
    total: int = 3000
    of_the_run: int = 50


class Selection:
    """Takes the steps one after the other and keeps what is worth showing.

    What is kept, first things first, up to `bounds.total`: the lowest and highest scores of the run, the last steps
    whole, the lowest and highest scores of each step, from the last step back.

    A row is a dictionary with its `step` and `score`; one without a score (None) is neither low nor high.
    """

    def __init__(self, bounds: Bounds):
        self._bounds = bounds
        self._lowest: list[Mapping[str, Any]] = []
        self._highest: list[Mapping[str, Any]] = []
        self._whole: deque[Sequence[Mapping[str, Any]]] = deque(maxlen=bounds.whole_steps)
        self._ends: deque[Sequence[Mapping[str, Any]]] = deque(maxlen=bounds.total)  # by step

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of the next step."""
        scored = [row for row in rows if row["score"] is not None]
        self._lowest = nsmallest(self._bounds.of_the_run, [*self._lowest, *scored], key=_score)
        self._highest = nlargest(self._bounds.of_the_run, [*self._highest, *scored], key=_score)
        half = self._bounds.per_step // 2
        low = nsmallest(self._bounds.per_step - half, scored, key=_score)
        self._ends.append([*low, *nlargest(half, scored, key=_score)])
        self._whole.append(rows)

    def rows(self) -> list[Mapping[str, Any]]:
        """What was kept, each row once, the most telling first."""
        of_the_run = [row for pair in zip(self._lowest, self._highest, strict=True) for row in pair]
        groups = [of_the_run, *reversed(self._whole), *reversed(self._ends)]
        kept = {id(row): row for group in groups for row in group}  # a row is the same object in every group
        return list(kept.values())[: self._bounds.total]

    def sentence(self) -> str:
        """What is shown, for the reader of the page."""
        bounds = self._bounds
        return (
            f"Shown are the {bounds.of_the_run} lowest and {bounds.of_the_run} highest scores of the run, its last "
            f"{bounds.whole_steps} steps whole, and of every other step the {bounds.per_step} lowest and highest "
            f"scores (half each); {bounds.total} rollouts at most."
        )


def _score(row: Mapping[str, Any]) -> float:
    return row["score"]
