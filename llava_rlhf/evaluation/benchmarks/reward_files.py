"""Numbers of what `score.py` wrote: a reward model's accuracy on preference pairs, and its best-of-n curve."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from llava_rlhf.evaluation.benchmarks.items import Benchmark, Item, ItemScore, Record, Scores
from llava_rlhf.evaluation.benchmarks.scored_pairs import (
    PAIR_METRICS,
    ScoredPair,
    calibration_error,
    check_fields,
    pair_values,
    scored_pairs,
)
from llava_rlhf.evaluation.calibration import pair_outcome


class RewardAccuracy(Benchmark):
    """Does a reward model prefer what people preferred?"""

    metrics: ClassVar[Mapping[str, str]] = PAIR_METRICS

    def items(self) -> list[Item]:
        """None: see `score.py`."""
        raise ValueError(
            "--benchmark reward_accuracy reads what llava_rlhf.score wrote of a preference file; nothing is to be answered"
        )

    def check(self, answers: Sequence[Record], leave_out_missing: bool) -> None:
        """As `Benchmark.check`."""
        self.score(answers, leave_out_missing)

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """One item a pair; a pair is known again by its row and its responses."""
        return self.of_pairs(answers, scored_pairs(answers))

    def of_pairs(self, answers: Sequence[Record], pairs: Sequence[ScoredPair]) -> Scores:
        """The same of lines that were read before. Raises ValueError where a pair stands there twice."""
        scored = []
        outcomes = [float(pair_outcome(pair.margin)) for pair in pairs]
        for record, pair, outcome in zip(answers, pairs, outcomes, strict=True):
            mark = hashlib.sha256(json.dumps(record["responses"]).encode()).hexdigest()[:12]
            identity = f"{pair.row}-{mark}"
            scored.append(ItemScore(identity, pair.answer_type, identity, pair_values(pair, outcome)))
        _refuse_twice([score.id for score in scored])
        counts = {"pairs": len(scored), "calibration_error": calibration_error(pairs, outcomes)}
        return Scores(scored, {}, counts)


class BestOfN(Benchmark):
    """How high does the best of n answers score, for n up to the number of answers a prompt has?

    Args:
        file: what `score.py` wrote of answers with several samples a prompt; its summary beside it names the reward model.
    """

    metrics: Mapping[str, str]

    def __init__(self, file: str):
        self.metrics = {}
        self._file = file

    def items(self) -> list[Item]:
        """None: see `score.py`."""
        raise ValueError(
            "--benchmark best_of_n reads what llava_rlhf.score wrote of answers (answer_prompts with --samples); "
            "nothing is to be answered here"
        )

    def check(self, answers: Sequence[Record], leave_out_missing: bool) -> None:
        """As `Benchmark.check`."""
        self.score(answers, leave_out_missing)

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """One item a prompt, with the expected best score of n of its answers."""
        groups: defaultdict[str, list[float]] = defaultdict(list)
        prompts: dict[str, str] = {}
        for line, record in enumerate(answers, 1):
            check_fields(line, record, {"score": (int, float), "question": str})
            question = json.dumps([record.get("image"), record["question"]])
            identity = str(record.get("prompt_row", record.get("id") or question))
            if prompts.setdefault(identity, question) != question:
                raise ValueError(
                    f"answers, line {line}: prompt {identity} has another question or image than before"
                )
            groups[identity].append(float(record["score"]))
        sizes = Counter(map(len, groups.values()))
        if len(sizes) != 1:
            raise ValueError(
                f"answers: prompts have {sorted(sizes)} answers each; a curve wants the same number of all"
            )
        (samples,) = sizes
        steps = sorted({2**power for power in range(samples.bit_length())} | {samples})
        self.metrics = {
            f"best_of_{n}": f"expected highest score of {n} of the {samples} answers"
            if n > 1
            else "mean reward"
            for n in steps
        }
        scored = []
        for identity, scores in groups.items():
            values = {f"best_of_{n}": (expected_best(scores, n), 1.0) for n in steps}
            mark = hashlib.sha256(prompts[identity].encode()).hexdigest()[:12]
            scored.append(ItemScore(f"{identity}-{mark}", "all", identity, values))
        return Scores(scored, {"reward_model": self._reward_model(), "samples": samples}, {})

    def _reward_model(self) -> str | None:
        summary = Path(f"{self._file}.summary.json")
        if not summary.is_file():
            return None
        try:
            return json.loads(summary.read_text(encoding="utf-8"))["reward_model"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{summary}: no summary of llava_rlhf.score ({error!r}); move it away") from None


def expected_best(scores: Sequence[float], n: int) -> float:
    """Mean of the highest score over all ways to take `n` of the scores: the unbiased estimate of best-of-n."""
    import torch  # slow to load

    from llava_rlhf.functional.best_of_n import expected_of_best

    table = torch.as_tensor(scores, dtype=torch.float64)
    return expected_of_best(table, table, n)


def _refuse_twice(ids: Sequence[str]) -> None:
    twice = [identity for identity, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"answers: row {twice[0].split('-')[0]} comes twice")
