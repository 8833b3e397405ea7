"""Pairs as `score.py` writes them, and what is asked of each: is the preferred response found, how surely, does length decide?"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_utils.problems import shorten
from llava_rlhf.evaluation.benchmarks.items import Record
from llava_rlhf.evaluation.calibration import expected_calibration_error, reliability_bins

PAIR_METRICS: Mapping[str, str] = {
    "accuracy": "share of pairs whose preferred response scores higher (a tie counts half); each response is scored alone, "
    "so their order can't matter: position consistency is not measured, it is given",
    "accuracy_shorter": "accuracy on the pairs whose preferred response is the shorter one, in characters",
    "accuracy_longer": "accuracy on the pairs whose preferred response is the longer one",
    "brier": "mean of (1 − sigmoid(margin))², 0 for sure and right, 0.25 for knowing nothing",
    "overconfidence": "mean of sigmoid(|margin|), how sure the model is of its choice, less its accuracy",
    "margin": "score of the preferred response less that of the other, on the model's own scale",
}


@dataclass(frozen=True)
class ScoredPair:
    """One line.

    Attributes:
        line: its number, from 1.
        row, id: of the preference file.
        preferred, other: the two responses.
        margin: score of the preferred one less that of the other.
        answer_type: what the answers look like, "all" where nothing was said.
    """

    line: int
    row: int
    id: str
    preferred: str
    other: str
    margin: float
    answer_type: str


def scored_pairs(answers: Sequence[Record]) -> list[ScoredPair]:
    """The lines of a file that `score.py` wrote of preferences. Raises ValueError for another file."""
    pairs = []
    for line, record in enumerate(answers, 1):
        kinds = {"row": int, "margin": (int, float), "responses": list, "preference": int}
        check_fields(line, {"answer_type": "all", **record}, {**kinds, "answer_type": str})
        responses, preference = record["responses"], record["preference"]
        if preference not in (1, 2) or len(responses) != 2 or not all(isinstance(r, str) for r in responses):
            raise ValueError(
                f"answers, line {line}: must have two texts as 'responses' and 1 or 2 as 'preference'; score the file with "
                "llava_rlhf.score first"
            )
        preferred, other = responses[preference - 1], responses[2 - preference]
        identity, kind = str(record.get("id", "")), record.get("answer_type", "all")
        pairs.append(
            ScoredPair(line, record["row"], identity, preferred, other, float(record["margin"]), kind)
        )
    return pairs


def check_fields(line: int, record: Record, fields: Mapping[str, Any]) -> None:
    """Raise ValueError where a field is absent, of another type, or not finite."""
    for name, kind in fields.items():
        value = record.get(name)
        if not isinstance(value, kind) or (isinstance(value, int | float) and not is_number(value)):
            raise ValueError(
                f"answers, line {line}: field {name!r} is {shorten(value)}; score the file with llava_rlhf.score first"
            )


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and one that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def pair_values(pair: ScoredPair, outcome: float) -> dict[str, tuple[float, float]]:
    """The values of `PAIR_METRICS`; `outcome` is 1 where the preferred response is found, 0 where not, ½ for half of it."""
    sure = confidence(pair.margin)
    probability = sure if pair.margin >= 0 else 1 - sure
    length = len(pair.preferred) - len(pair.other)
    return {
        "accuracy": (outcome, 1.0),
        "accuracy_shorter": (outcome, 1.0) if length < 0 else (0.0, 0.0),
        "accuracy_longer": (outcome, 1.0) if length > 0 else (0.0, 0.0),
        "brier": ((1 - probability) ** 2, 1.0),
        "overconfidence": (sure - outcome, 1.0),
        "margin": (pair.margin, 1.0),
    }


def confidence(margin: float) -> float:
    """sigmoid(|margin|): the probability that the response which scores higher is the preferred one (Bradley-Terry)."""
    return 1 / (1 + math.exp(-abs(margin)))


def calibration_error(pairs: Sequence[ScoredPair], outcomes: Sequence[float]) -> float:
    """Expected calibration error of the confidence, over ten bins of equal width; there is at least one pair."""
    return expected_calibration_error(reliability_bins([confidence(pair.margin) for pair in pairs], outcomes))
