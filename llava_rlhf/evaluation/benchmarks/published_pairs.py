"""What published benchmarks of reward models share: their own file of pairs, to which scored pairs are matched."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llava_rlhf.evaluation.benchmarks.items import (
    SHOWN_IDS,
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    read_objects,
)
from llava_rlhf.evaluation.benchmarks.scored_pairs import (
    PAIR_METRICS,
    ScoredPair,
    calibration_error,
    pair_values,
    scored_pairs,
)
from llava_rlhf.evaluation.calibration import pair_outcome

FLAG = "--benchmark_files"
Key = tuple[str, ...]
Values = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class PublishedPair:
    """A pair of a benchmark's file.

    Attributes:
        id: as published, as a text.
        part: what it is reported under.
        cluster: pairs that share it (a picture, a question) are resampled as one.
        preferred, other: the two responses.
    """

    id: str
    part: str
    cluster: str
    preferred: str
    other: str

    @property
    def key(self) -> Key:
        """Name and responses, in whichever order: what tells it from others."""
        return _key(self)

    @property
    def name(self) -> str:
        """The name under which runs are compared."""
        mark = hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:12]
        return f"{self.id}-{mark}"


class PairBenchmark(Benchmark):
    """Pairs with a published preference, and how often a reward model has the same.

    Class attributes:
        name: as `--benchmark` calls it.
        texts: fields of a row that must be texts.

    Args:
        file: the published file, JSON or JSON Lines.
    """

    metrics: ClassVar[Mapping[str, str]] = PAIR_METRICS
    name: ClassVar[str]
    texts: ClassVar[tuple[str, ...]]

    def __init__(self, file: str):
        self.file = file

    @abstractmethod
    def read(self, row: Mapping[str, Any]) -> PublishedPair:
        """A row of the file whose `texts` are texts. Raises ValueError, without naming the place."""

    def outcome(self, margin: float) -> float:
        """What a pair counts: a tie half, the mean of the coin that would be flipped."""
        return pair_outcome(margin)

    def further(self, pairs: Sequence[PublishedPair], found: Mapping[Key, float]) -> dict[Key, Values]:
        """Values of metrics of its own, for the pairs in `found`: key → outcome."""
        return {key: {} for key in found}

    def items(self) -> list[Item]:
        """None: see `score.py`."""
        raise ValueError(
            f"--benchmark {self.name} reads what llava_rlhf.score wrote of its pairs (make_dataset import makes a preference "
            "file of them); nothing is to be answered"
        )

    def check(self, answers: Sequence[Record], leave_out_missing: bool) -> None:
        """As `Benchmark.check`."""
        self.score(answers, leave_out_missing)

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """One item a pair; a pair that stands in the file twice counts once."""
        rows = self._rows()
        pairs = list({pair.key: pair for pair in rows}.values())
        matched = _match(pairs, scored_pairs(answers), leave_out_missing)
        outcomes = {key: float(self.outcome(scored.margin)) for key, scored in matched.items()}
        own = self.further(pairs, outcomes)
        items = [
            ItemScore(
                *(pair.name, pair.part, pair.cluster),
                pair_values(matched[pair.key], outcomes[pair.key]) | own[pair.key],
            )
            for pair in pairs
            if pair.key in matched
        ]
        counts = {
            "missing": len(pairs) - len(items),
            "repeated": len(rows) - len(pairs),
            "ties": sum(scored.margin == 0 for scored in matched.values()),
            "calibration_error": calibration_error(list(matched.values()), list(outcomes.values())),
        }
        return Scores(items, {"files": {Path(self.file).name: file_hash(self.file)}}, counts)

    def _rows(self) -> list[PublishedPair]:
        file_hash(self.file)  # refuses what is no file
        pairs = []
        for place, row in read_objects(self.file, FLAG):
            where = f"{FLAG} {self.file}, {place}"
            wrong = [name for name in self.texts if not isinstance(row.get(name), str)]
            if wrong:
                raise ValueError(
                    f"{where}: field {wrong[0]!r} is missing or no text; is this the file of {self.name}? Its fields are "
                    f"{sorted(row)}"
                )
            try:
                pairs.append(self.read(row))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        if not pairs:
            raise ValueError(f"{FLAG} {self.file}: no pairs")
        return pairs


def _key(pair: PublishedPair | ScoredPair) -> Key:
    return (pair.id, *sorted((pair.preferred, pair.other)))


def _match(
    pairs: Sequence[PublishedPair], scored: Sequence[ScoredPair], leave_out_missing: bool
) -> dict[Key, ScoredPair]:
    """Scored pairs by key, in the order of the benchmark. Raises ValueError where the two are not of one benchmark."""
    published = {pair.key: pair for pair in pairs}
    found: dict[Key, ScoredPair] = {}
    for pair in scored:
        where, own = f"answers, line {pair.line}: id {pair.id!r}", published.get(_key(pair))
        if own is None:
            raise ValueError(
                f"{where} with these responses is no pair of this benchmark; import its own file (make_dataset import), and "
                "score that"
            )
        if pair.preferred != own.preferred:
            raise ValueError(f"{where} prefers the other response than the file of the benchmark")
        found.setdefault(_key(pair), pair)
    missing = [pair.id for pair in pairs if pair.key not in found]
    if missing and not leave_out_missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} pairs have no score, the first: {', '.join(missing[:SHOWN_IDS])}. "
            "Score them, or count the others with --missing_items leave_out"
        )
    return {pair.key: found[pair.key] for pair in pairs if pair.key in found}
