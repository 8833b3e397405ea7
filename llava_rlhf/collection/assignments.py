"""Who judges which pair, in which order, and with which answer on the left.

Every annotator goes through the batches in turn, and through each batch in an order of their own, which depends on the
seed, their name and the pair alone: after a restart everybody goes on where they were. Some pairs are shown to all, so
that agreement can be measured; each of the others goes to one annotator.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_rlhf.collection.judgements import Journal, Judgement, Verdict
from llava_rlhf.collection.pairs import Pair, PairFile
from llava_rlhf.collection.preference_file import PreferenceFile

RESERVED_SECONDS = 1800  # a pair that somebody has looked at for so long is free again


@dataclass(frozen=True)
class Showing:
    """A pair on somebody's screen: `left` (1 or 2) is the output that stands left, `since` is Unix time."""

    pair: Pair
    left: int
    since: float

    @property
    def shown(self) -> tuple[str, str]:
        """The answers from left to right."""
        return self.pair.outputs if self.left == 1 else self.pair.outputs[::-1]


class AssignmentQueue:
    """Hands pairs out and takes judgements in; threads may share it.

    Args:
        pairs: the pairs, which may still grow.
        journal: where judgements go, before anything else happens.
        preferences: the file that is written anew with each judgement.
        shared_share: share of the pairs, between 0 and 1, that every annotator is shown.
        seed: of all orders.
        clock: Unix time.
    """

    def __init__(
        self,
        pairs: PairFile,
        journal: Journal,
        preferences: PreferenceFile,
        shared_share: float,
        seed: int,
        clock: Callable[[], float] = time.time,
    ):
        self.pairs, self.journal = pairs, journal
        self._preferences, self._shared_share, self._seed, self._clock = (
            preferences,
            shared_share,
            seed,
            clock,
        )
        self._lock = threading.Lock()
        self._on_screen: dict[str, Showing] = {}
        for row, judgements in journal.all().items():
            preferences.update(pairs.pairs[row], judgements)
        preferences.write()

    def show(self, annotator: str) -> Showing | None:
        """The pair on an annotator's screen, or the next one for them; None when there is none at the moment."""
        with self._lock:
            showing = self._on_screen.get(annotator)
            if showing is not None and self._open(showing.pair, annotator):
                return showing
            self._on_screen.pop(annotator, None)
            free = [pair for pair in self.pairs.pairs.values() if self._open(pair, annotator)]
            if not free:
                return None
            return self._put(
                annotator, min(free, key=lambda pair: (pair.batch, self._rank(annotator, pair.row)))
            )

    def judge(
        self, annotator: str, row: int, verdict: Verdict, comment: str = "", captions_opened: bool = False
    ) -> bool:
        """Take a judgement on the pair that is on the annotator's screen; it is on disk when this returns.

        Args:
            annotator: who.
            row: the pair they saw.
            verdict: `FIRST` for the left answer, `SECOND` for the right one.
            comment: why.
            captions_opened: whether they had the captions on their screen.

        Returns:
            False, and nothing happened, where they were shown another pair by now (a second click).
        """
        with self._lock:
            showing = self._on_screen.get(annotator)
            if showing is None and row in self.pairs.pairs and annotator not in self.journal.of(row):
                # The page was shown before a restart: the order of the answers depends on nothing that got lost.
                showing = self._put(annotator, self.pairs.pairs[row])
            if showing is None or showing.pair.row != row:
                return False
            seconds = round(self._clock() - showing.since, 1)
            verdict = verdict if showing.left == 1 else verdict.mirrored
            comment, now = comment.strip(), self._clock()
            details = {"captions_opened": True} if captions_opened else {}
            self._write(
                [Judgement(row, annotator, verdict, comment, showing.left, seconds, now, details=details)]
            )
            del self._on_screen[annotator]
            return True

    def take(self, judgements: Sequence[Judgement]) -> None:
        """Take judgements of an AI annotator, who is shown nothing; they are on disk when this returns."""
        with self._lock:
            self._write(judgements)

    def undo(self, annotator: str) -> bool:
        """Withdraw an annotator's last judgement and show that pair again. False where there is none."""
        with self._lock:
            last = self.journal.newest_of(annotator)
            if last is None:
                return False
            self._write([Judgement(last.row, annotator, Verdict.WITHDRAWN, time=self._clock())])
            self._put(annotator, self.pairs.pairs[last.row])
            return True

    def progress(self, annotator: str) -> tuple[int, int]:
        """How many pairs an annotator has judged, and how many are open to them now."""
        with self._lock:
            judged = sum(annotator in by for by in self.journal.all().values())
            return judged, sum(self._open(pair, annotator) for pair in self.pairs.pairs.values())

    def preferred(self, annotator: str) -> int:
        """On how many pairs an annotator prefers one answer; a tie and "both bad" teach nothing."""
        with self._lock:
            judgements = self.journal.all().values()
            return sum(annotator in by and by[annotator].verdict.preference is not None for by in judgements)

    def untouched(self) -> int:
        """Pairs that nobody has judged and nobody looks at."""
        with self._lock:
            judged = self.journal.all()
            looked_at = {showing.pair.row for showing in self._on_screen.values()}
            return sum(row not in judged and row not in looked_at for row in self.pairs.pairs)

    def left_of(self, annotator: str, row: int) -> int:
        """1 or 2: which output an annotator sees on the left."""
        return 1 + _hash(self._seed, "left", annotator, row) % 2

    def shared(self, row: int) -> bool:
        """Whether a pair is shown to every annotator."""
        return _hash(self._seed, "shared", row) < self._shared_share * 2**64

    def _put(self, annotator: str, pair: Pair) -> Showing:
        showing = Showing(pair, self.left_of(annotator, pair.row), self._clock())
        self._on_screen[annotator] = showing
        return showing

    def _open(self, pair: Pair, annotator: str) -> bool:
        judgements = self.journal.of(pair.row)
        if annotator in judgements:
            return False
        if self.shared(pair.row):
            return True
        long_ago = self._clock() - RESERVED_SECONDS
        others = (showing for name, showing in self._on_screen.items() if name != annotator)
        taken = any(showing.pair.row == pair.row and showing.since > long_ago for showing in others)
        return not taken and not any(one.human for one in judgements.values())

    def _rank(self, annotator: str, row: int) -> int:
        return _hash(self._seed, "order", annotator, row)

    def _write(self, judgements: Sequence[Judgement]) -> None:
        self.journal.add(judgements)
        for row in {judgement.row for judgement in judgements}:
            self._preferences.update(self.pairs.pairs[row], self.journal.of(row))
        self._preferences.write()


def _hash(*parts: object) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")
