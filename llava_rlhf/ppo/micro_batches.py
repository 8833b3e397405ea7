"""Which rows go through the model together: few padded tokens, bounded memory, and results that do not depend on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

logger = logging.getLogger(__name__)


def micro_batches(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Cut rows into groups of similar length.

    Args:
        lengths: tokens of each row.
        max_rows: rows of a group at most.
        max_tokens: rows × longest row of a group at most (a row that is longer stands alone); 0: no such limit.

    Returns:
        Indices of rows, each once: the longest first, so that memory is claimed by the first group.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    groups: list[list[int]] = []
    for row in order:
        longest = lengths[groups[-1][0]] if groups else 0
        full = not groups or len(groups[-1]) == max_rows
        if full or 0 < max_tokens < (len(groups[-1]) + 1) * longest:
            groups.append([])
        groups[-1].append(row)
    return groups


def split_into(groups: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Halve the largest groups until there are `count` of them. Raises ValueError when there are too few rows."""
    groups = [list(group) for group in groups]
    if sum(map(len, groups)) < count:
        raise ValueError(f"{sum(map(len, groups))} rows can't make {count} groups")
    while len(groups) < count:
        largest = max(range(len(groups)), key=lambda index: len(groups[index]))
        half = (len(groups[largest]) + 1) // 2
        groups[largest : largest + 1] = [groups[largest][:half], groups[largest][half:]]
    return groups


class MicroBatches:
    """Runs rows through the model group by group; where a group needs more memory than there is, in smaller ones.

    Args:
        max_rows, max_tokens: see `micro_batches`. The limit of tokens is lowered for good by a group that did not fit.
        most: the largest of a number over all processes, where these must run a model together (ZeRO-3): then every one
            does as many passes, and none in smaller groups. None: each for itself.
    """

    def __init__(self, max_rows: int, max_tokens: int = 0, most: Callable[[int], int] | None = None):
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self.most = most

    def run(self, lengths: Sequence[int], work: Callable[[list[int]], None]) -> None:
        """Call `work` for every group of rows with `lengths` tokens; it must do all of a group's work or none.

        With `most` it may be called again for a group, and must then find the same.

        Raises:
            torch.OutOfMemoryError: a single row does not fit; with `most`, a group does not.
        """
        waiting = micro_batches(lengths, self.max_rows, self.max_tokens)
        if self.most is not None:
            for group in self._as_many_as_elsewhere(waiting):
                work(group)
            return
        while waiting:
            group = waiting.pop(0)
            try:
                work(group)
            except torch.OutOfMemoryError:
                if len(group) == 1:
                    raise
                self.max_tokens = len(group) * lengths[group[0]] // 2
                logger.warning(
                    "out of memory with %d rows of up to %d tokens: going on with at most %d tokens at once "
                    "(--tokens_per_micro_batch %d from the start saves the attempt)",
                    len(group),
                    lengths[group[0]],
                    self.max_tokens,
                    self.max_tokens,
                )
                rows = [row for other in [group, *waiting] for row in other]
                again = micro_batches([lengths[row] for row in rows], self.max_rows, self.max_tokens)
                waiting = [[rows[index] for index in other] for other in again]

    def _as_many_as_elsewhere(self, groups: Sequence[Sequence[int]]) -> list[list[int]]:
        """Smaller groups; where there are too few rows for that, the last one again."""
        count, rows = self.most(len(groups)), sum(map(len, groups))
        found = split_into(groups, min(count, rows))
        return [*found, *[found[-1]] * (count - len(found))]
