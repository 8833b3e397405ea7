"""What the best of n descriptions is worth where a judge chooses: gold against the judge's own score."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from data_utils.schema import AnswerType
from data_utils.shapes_files import parse_question
from data_utils.shapes_text import answer_quality
from data_utils.shapes_world import Scene, measure_description
from llava_rlhf.functional.best_of_n import expected_of_best
from llava_rlhf.reporting.changes import Cell, Measure, Measured
from llava_rlhf.reporting.statistics import RESAMPLES, SEED, Sums, interval, paired_difference

GOLD = ("gold", "hallucination", "recall")
MEANINGS = {
    "gold": "recall less ½ for each false object and each repeat; -1 for an answer to another kind of question",
    "hallucination": "share of descriptions that name at least one object that is not in the picture",
    "recall": "share of the objects in the picture that are named",
}
SOURCE = (
    "{} held-out pictures, {} answers of the policy before PPO to each, chosen by each reward model's score and measured against "
    "the known scene. Intervals: 95 %, percentile bootstrap over pictures; of differences paired."
)


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


def compare_best(scored: Mapping[str, Sequence[Mapping[str, Any]]], scenes: Mapping[str, Scene]) -> Measured:
    """The table of what each judge's best of all answers is worth, beside the mean answer, with paired intervals over pictures.

    Args:
        scored: judge → what `llava_rlhf.score` wrote of the same descriptions.
        scenes: ground truth by image name.

    Raises:
        ValueError: the judges scored different answers, or prompts have different numbers of them.
    """
    names, groups = list(scored), [by_prompt(records) for records in scored.values()]
    answers = [[[one["answer"] for one in group] for group in of] for of in groups]
    if any(other != answers[0] for other in answers[1:]):
        raise ValueError(f"--best_of_n: {' and '.join(names)} scored different answers; score the same file")
    samples = len(groups[0][0])
    if any(len(group) != samples for group in groups[0]):
        raise ValueError(
            "--best_of_n: prompts have different numbers of answers; sample as many of each, and score them with a "
            "--response_len that leaves none out (the scores' summary has those that were)"
        )
    worth = [[gold(one, scenes[one["image"][0]]) for one in group] for group in groups[0]]
    measures = []
    for name in GOLD:
        first = _of_chosen(groups[0], worth, name, 1)
        columns = [first, *(_of_chosen(of, worth, name, samples) for of in groups)]
        cells = [Cell(first.ratio, interval(first, RESAMPLES, SEED))]
        cells += [
            Cell(sums.ratio, interval(sums, RESAMPLES, SEED), paired_difference(first, sums, RESAMPLES, SEED))
            for sums in columns[1:]
        ]
        measures.append(Measure(name, name, MEANINGS[name], cells))
    titles = ("an answer", *(f"best of {samples}, {name}" for name in names))
    return Measured("Best of several answers", titles, measures, SOURCE.format(len(groups[0]), samples))


def _of_chosen(
    groups: Sequence[Sequence[Mapping[str, Any]]],
    worth: Sequence[Sequence[Mapping[str, float]]],
    name: str,
    n: int,
) -> Sums:
    values = [
        expected_of_best(
            torch.tensor([one["score"] for one in group]),
            torch.tensor([one[name] for one in of_group]),
            n,
        )
        for group, of_group in zip(groups, worth, strict=True)
    ]
    return Sums(np.array(values), np.ones(len(values)))
