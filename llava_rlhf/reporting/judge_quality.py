"""How good a reward model is as a judge of pairs: its numbers, and what they say in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_rlhf.reporting.changes import short
from llava_rlhf.reporting.health import FLAG, OK, UNKNOWN, Check

CHANCE = 0.5
MAX_OVERCONFIDENCE = 0.1  # of sigmoid(|margin|) over the share that is right
MAX_LENGTH_GAP = 0.1  # between the accuracies where the longer, and where the shorter response is preferred
MAX_TIES = 0.01  # of the pairs
FEW = 30  # pairs of an answer type

Entry = Mapping[str, Any]  # `value`, `interval`, `items`


@dataclass(frozen=True)
class ShownPair:
    """A pair as the page shows it.

    Attributes:
        row, id, answer_type: of the preference file.
        image: names of its images.
        question: without image markers.
        captions: what is known of the images; empty where no captions were given.
        preferred, other: the responses, each with its `text`, `score` and `length` in characters.
        margin: score of the preferred response less that of the other.
    """

    row: int
    id: str
    answer_type: str
    image: Sequence[str]
    question: str
    captions: Sequence[str]
    preferred: Mapping[str, Any]
    other: Mapping[str, Any]
    margin: float


@dataclass(frozen=True)
class Lengths:
    """What length has to do with it, over the pairs whose responses differ in length; None where there is none.

    Attributes:
        people_longer: share of them whose preferred response is the longer one.
        model_longer: share of them whose longer response scores higher, ties by half.
        correlation: Spearman's, of the difference of the scores and that of the lengths.
        pairs: how many there are.
    """

    people_longer: float | None
    model_longer: float | None
    correlation: float | None
    pairs: int


@dataclass(frozen=True)
class JudgeQuality:
    """All that the page shows.

    Attributes:
        source: what was scored by whom, for the line below the first.
        table: answer type (`all` first) → metric of pairs → entry.
        calibration_error: answer type → expected calibration error.
        meanings: metric → one sentence.
        margins: of all pairs.
        bins: reliability bins with pairs in them: mean confidence, share that is right, pairs.
        by_length: parts of the pairs by length difference: mean difference in characters, accuracy.
        lengths: see there.
        ties: pairs whose responses score the same.
        worst: the pairs with the lowest margins.
        notes: what is missing, as sentences.
    """

    source: str
    table: Mapping[str, Mapping[str, Entry]]
    calibration_error: Mapping[str, float]
    meanings: Mapping[str, str]
    margins: Sequence[float]
    bins: Sequence[tuple[float, float, int]]
    by_length: Sequence[tuple[float, float]]
    lengths: Lengths
    ties: int
    worst: Sequence[ShownPair]
    notes: Sequence[str]

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self.margins)

    def sentence(self) -> str:
        """The first line of the page."""
        accuracy = self.table["all"]["accuracy"]
        low, high = accuracy["interval"] or (None, None)
        sure = "" if low is None else f" (95 %: {low:.1%} to {high:.1%})"
        return f"The reward model prefers what people preferred in {accuracy['value']:.1%} of {self.pairs} pairs{sure}"


def judge_checks(quality: JudgeQuality) -> list[Check]:
    """Questions to a judge, answered in plain words, flags first. The thresholds are rules of thumb, see docs/run_report.md."""
    checks = [_better_than_chance(quality), _sure(quality), _length(quality), *_ties(quality), *_few(quality)]
    return sorted(checks, key=lambda check: (FLAG, UNKNOWN, OK).index(check.state))


def _better_than_chance(quality: JudgeQuality) -> Check:
    accuracy = quality.table["all"]["accuracy"]
    if accuracy["interval"] is None:
        return Check("accuracy", UNKNOWN, "One pair tells nothing of a judge.")
    low, high = accuracy["interval"]
    if low > CHANCE:
        return Check("accuracy", OK, f"Better than a coin: the interval of the accuracy begins at {low:.1%}.")
    return Check(
        "accuracy",
        FLAG,
        f"The interval of the accuracy ({low:.1%} to {high:.1%}) holds {CHANCE:.0%}, what a coin has."
        if high >= CHANCE
        else f"Worse than a coin: the interval of the accuracy ends at {high:.1%}.",
        "A policy that is trained on such scores learns nothing that people prefer.",
        "Look whether the preferences are the right way round, and the captions those of training; train longer or on more pairs.",
    )


def _sure(quality: JudgeQuality) -> Check:
    gap = quality.table["all"]["overconfidence"]["value"]
    seen = (
        f"sigmoid(|margin|) is {short(abs(gap))} {'above' if gap > 0 else 'below'} the share that is right."
    )
    if gap <= MAX_OVERCONFIDENCE:
        return Check("confidence", OK, f"As sure as it may be: {seen}")
    return Check(
        "confidence",
        FLAG,
        f"Surer than it is right: {seen}",
        "Large margins are large rewards, and these are not deserved.",
        "Fewer epochs or a smaller --learning_rate; an ensemble (--more_reward_models) tells where judges differ.",
    )


def _length(quality: JudgeQuality) -> Check:
    longer, shorter = (quality.table["all"][f"accuracy_{name}"]["value"] for name in ("longer", "shorter"))
    if longer is None or shorter is None:
        return Check("length", UNKNOWN, "Which response is longer never varies, so that nothing can be told.")
    lengths = quality.lengths
    seen = (
        f"right on {longer:.1%} of the pairs whose longer response is preferred, on {shorter:.1%} of the others; it picks the "
        f"longer one in {lengths.model_longer:.1%}, people in {lengths.people_longer:.1%}."
    )
    if abs(longer - shorter) <= MAX_LENGTH_GAP:
        return Check("length", OK, f"Length does not decide: {seen}")
    return Check(
        "length",
        FLAG,
        f"It pays for {'length' if longer > shorter else 'brevity'}: {seen}",
        "A policy finds that out first, and its answers grow or shrink without becoming better.",
        "More pairs whose preferred response is the one it misses; in PPO --length_bonus_score against it.",
    )


def _ties(quality: JudgeQuality) -> list[Check]:
    share = quality.ties / quality.pairs
    if share <= MAX_TIES:
        return []
    return [
        Check(
            "ties",
            FLAG,
            f"{quality.ties} pairs ({share:.1%}) score exactly the same.",
            "A score that does not tell two texts apart has reached its limit, or both texts are cut at the same place.",
            "Look at those pairs; --response_len may be too small.",
        )
    ]


def _few(quality: JudgeQuality) -> list[Check]:
    few = [
        f"{name} ({entry['accuracy']['items']})"
        for name, entry in quality.table.items()
        if name != "all" and entry["accuracy"]["items"] < FEW
    ]
    if not few:
        return []
    return [Check("few", UNKNOWN, f"Fewer than {FEW} pairs, which says little: {', '.join(few)}.")]


def type_rows(quality: JudgeQuality) -> list[dict[str, str]]:
    """Cells of the table by answer type."""
    return [
        {
            "name": name,
            "pairs": str(entry["accuracy"]["items"]),
            "accuracy": short(entry["accuracy"]["value"]),
            "interval": _interval(entry["accuracy"]["interval"]),
            "margin": short(entry["margin"]["value"], signed=True),
            "calibration": short(quality.calibration_error[name]),
            "longer": short(entry["accuracy_longer"]["value"]),
            "shorter": short(entry["accuracy_shorter"]["value"]),
        }
        for name, entry in quality.table.items()
    ]


def _interval(limits: Sequence[float] | None) -> str:
    return "" if limits is None else f"{short(limits[0])} to {short(limits[1])}"
