"""What the best of n descriptions is worth where a judge chooses: gold against the judge's own score."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from data_utils.schema import AnswerType
from data_utils.shapes_files import parse_question
from data_utils.shapes_text import answer_quality
from data_utils.shapes_world import Scene, measure_description
from llava_rlhf.functional.best_of_n import expected_of_best

GOLD = ("gold", "hallucination", "recall")


def gold(record: Mapping[str, Any], scene: Scene) -> dict[str, float]:
    """What an answer to a request to describe is worth.

    `gold` is the oracle's score: recall − ½ per false object − ½ per repeat, −1 for another kind of answer; `hallucination` is 1 where
    it names something that is not there; `recall`.
    """
    text = record["answer"]
    question = parse_question(record["question"], AnswerType.GENERAL, scene.names)
    measured = measure_description(scene.names, text)
    return {
        "gold": answer_quality(question, scene.names, text),
        "hallucination": float(measured.hallucinated),
        "recall": measured.recall,
    }


def by_prompt(records: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Answers in groups, one for each prompt, in the order of the file."""
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["id"]].append(record)
    return list(groups.values())


def powers(samples: int) -> list[int]:
    """1, 2, 4 … up to `samples`, and that."""
    return sorted({2**power for power in range(samples.bit_length())} | {samples})


def best_numbers(
    scores: Sequence[Sequence[float]], worth: Sequence[Sequence[Mapping[str, float]]]
) -> dict[str, float]:
    """Means over prompts of what the best of n is worth, `NAME@n`; `proxy` in standard deviations of all scores from their mean.

    Args:
        scores: of each prompt's answers; as many of all prompts.
        worth: of the same answers, as `gold`.
    """
    table = torch.tensor(scores, dtype=torch.float64)
    proxies = (table - table.mean()) / (table.std(correction=0) or 1.0)
    values = {
        name: torch.tensor([[one[name] for one in answers] for answers in worth], dtype=torch.float64)
        for name in GOLD
    }
    return {
        f"{name}@{n}": statistics.fmean(
            expected_of_best(of, worths, n) for of, worths in zip(proxies, numbers, strict=True)
        )
        for n in powers(table.shape[1])
        for name, numbers in {**values, "proxy": proxies}.items()
    }


def scored_best(records: Sequence[Mapping[str, Any]], scenes: Mapping[str, Scene]) -> dict[str, float]:
    """`best_numbers` of what `llava_rlhf.score` wrote of descriptions with several samples a prompt."""
    groups = by_prompt(records)
    worth = [[gold(one, scenes[one["image"][0]]) for one in group] for group in groups]
    return best_numbers([[one["score"] for one in group] for group in groups], worth)
