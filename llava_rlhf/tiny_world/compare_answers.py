"""Two models on the same held-out pictures: what changed, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_utils.shapes_world import Scene
from llava_rlhf.reporting.changes import Cell, Measure, Measured
from llava_rlhf.reporting.statistics import RESAMPLES, SEED, Sums, interval, paired_difference
from llava_rlhf.tiny_world.score_answers import answer_values

COLUMNS = {
    "hallucination": "hallucinating descriptions",
    "recall": "recall",
    "description_tokens": "tokens",
    "yes_no_accuracy": "yes/no accuracy",
    "yes_rate": "yes rate",
    "choice_accuracy": "choice accuracy",
}
MEANINGS = {
    "hallucination": "share of descriptions that name at least one object that is not in the picture",
    "recall": "share of the objects in the picture that are named",
    "description_tokens": "tokens of a description",
    "yes_no_accuracy": "share of yes/no questions answered rightly",
    "yes_rate": "share of yes answers to them; half of the things are there",
    "choice_accuracy": "share of multiple-choice questions answered rightly",
}
SOURCE = (
    "{questions} questions on {pictures} held-out pictures, measured against the known scene. Intervals: 95 %, percentile "
    "bootstrap over pictures; of differences paired."
)

Answers = Sequence[Mapping[str, Any]]


def compare_answers(
    names: tuple[str, str], answers: tuple[Answers, Answers], scenes: Mapping[str, Scene]
) -> Measured:
    """The table of before and after.

    Args:
        names: of the two models.
        answers: of each, to the same questions in the same order.
        scenes: ground truth by image name.

    Raises:
        ValueError: the models answered different questions.
    """
    asked = [[(record["id"], record["question"]) for record in records] for records in answers]
    if asked[0] != asked[1]:
        raise ValueError(
            f"--answers: {names[0]} and {names[1]} answered different questions; answer both again"
        )
    pictures = list(dict.fromkeys(record["image"][0] for record in answers[0]))
    tables = [_sums(records, scenes, pictures) for records in answers]
    measures = []
    for name, title in COLUMNS.items():
        before, after = (table[name] for table in tables)
        cells = (
            Cell(before.ratio, interval(before, RESAMPLES, SEED)),
            Cell(
                after.ratio,
                interval(after, RESAMPLES, SEED),
                paired_difference(before, after, RESAMPLES, SEED),
            ),
        )
        measures.append(Measure(name, title, MEANINGS[name], cells))
    source = SOURCE.format(questions=len(asked[0]), pictures=len(pictures))
    return Measured("On held-out pictures", names, measures, source)


def _sums(records: Answers, scenes: Mapping[str, Scene], pictures: Sequence[str]) -> dict[str, Sums]:
    """Of every column: what its values add up to, and how many there are, picture by picture."""
    place = {picture: number for number, picture in enumerate(pictures)}
    totals = {name: np.zeros((2, len(pictures))) for name in COLUMNS}
    for record in records:
        picture = record["image"][0]
        for name, value in answer_values(record, scenes[picture]).items():
            if name in totals:
                totals[name][:, place[picture]] += value, 1
    return {name: Sums(*both) for name, both in totals.items()}
