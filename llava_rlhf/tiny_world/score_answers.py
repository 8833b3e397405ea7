"""Numbers for the answers of a tiny world: hallucination, recall, yes/no and multiple choice, measured, not judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_utils.schema import AnswerType
from data_utils.shapes_files import parse_question
from data_utils.shapes_text import is_correct
from data_utils.shapes_world import Scene, measure_description

YES_NO_TYPES = (AnswerType.YES_IN_YESNO, AnswerType.NO_IN_YESNO)


def score_answers(
    records: Iterable[Mapping[str, Any]], scenes: Mapping[str, Scene]
) -> dict[str, dict[str, float]]:
    """Means with standard errors and counts.

    Args:
        records: answers with `image`, `question`, `answer_type`, `answer`, `tokens`, `stopped`.
        scenes: ground truth by image name.

    Returns:
        name → {mean, standard_error, n}: `hallucination` (share of descriptions that name a false object, CHAIR_s),
        `false_share` (false among named objects, CHAIR_i), `recall`, `description_tokens`, `yes_no_accuracy`,
        `yes_rate`, `choice_accuracy`, `stop_rate`. Names without any record are left out.
    """
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in answer_values(record, scenes[record["image"][0]]).items():
            values.setdefault(name, []).append(value)
    return {name: _summary(numbers) for name, numbers in values.items()}


def answer_values(record: Mapping[str, Any], scene: Scene) -> dict[str, float]:
    """What one answer says of each number of `score_answers`; those it says nothing of are left out."""
    names, answer = scene.names, record["answer"]
    answer_type = AnswerType[record["answer_type"]]
    values: dict[str, float] = {"stop_rate": record["stopped"]}
    if answer_type == AnswerType.GENERAL:
        measured = measure_description(names, answer)
        values |= {
            "hallucination": measured.hallucinated,
            "recall": measured.recall,
            "description_tokens": record["tokens"],
        }
        if measured.mentioned:
            values["false_share"] = len(measured.false) / len(measured.mentioned)
    else:
        correct = is_correct(parse_question(record["question"], answer_type, names), answer)
        if answer_type in YES_NO_TYPES:
            values |= {"yes_no_accuracy": correct, "yes_rate": answer.lower().startswith("yes")}
        else:
            values["choice_accuracy"] = correct
    return {name: float(value) for name, value in values.items()}


def _summary(numbers: Sequence[float]) -> dict[str, float]:
    array = np.asarray(numbers)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else float("nan")
    return {"mean": float(array.mean()), "standard_error": float(error), "n": len(array)}
