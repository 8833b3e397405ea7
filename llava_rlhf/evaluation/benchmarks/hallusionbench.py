"""HallusionBench: yes-or-no questions in pairs, with figures that were changed (Guan et al., arXiv 2310.14566).

Source of the rules: github.com/tianyi-lab/HallusionBench, utils.py. Left out: its diagnosis of what language and what sight got wrong,
which asks the judge a second question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Any, ClassVar

from data_utils.schema import AnswerType
from llava_rlhf.engines.judge_client import Judge, Question
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
    read_objects,
)
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt, judge_conditions
from llava_rlhf.evaluation.benchmarks.published_answers import have

PROMPT_NAMES = ("question", "reference", "answer")
SUPPLEMENT = "VS"  # what is asked can be known without the image; "VD": it can't
_ORIGINAL = "0"  # of figures: the one that was not changed, or none at all in `SUPPLEMENT`
_FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer_details")
_NAME = ("category", "subcategory", "set_id", "figure_id", "question_id")


class Outcome(IntEnum):
    """What an answer is, in the numbers of the published files."""

    WRONG = 0
    RIGHT = 1
    UNCLEAR = 2


def read_verdict(verdict: str) -> Outcome:
    """A judge's words, by the published rule: "incorrect" anywhere is wrong, else "correct" anywhere is right, else unclear.

    So "not correct" is right.
    """
    small = verdict.lower()
    if "incorrect" in small:
        return Outcome.WRONG
    return Outcome.RIGHT if "correct" in small else Outcome.UNCLEAR


def by_rule(answer: str, yes: bool) -> Outcome:
    """Without a judge: the word yes or the word no decides, in any case and place; both or none of them is unclear."""
    words = set(re.findall(r"[a-z]+", answer.lower()))
    said = words & {"yes", "no"}
    if len(said) != 1:
        return Outcome.UNCLEAR
    return Outcome.RIGHT if ("yes" in said) is yes else Outcome.WRONG


class HallusionBench(Benchmark):
    """The published list of questions.

    Args:
        file: JSON list with `category`, `subcategory`, `set_id`, `figure_id`, `question_id`, `question`, `gt_answer`,
            `gt_answer_details`, and `filename` where there is an image.
        judge: who reads the answers; None: the rule does, or answers are only to be made.
        prompt: what a judge reads.
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "aAcc": "share of questions answered rightly",
        "fAcc": "share of figures all of whose questions are answered rightly",
        "qAcc": "share of questions answered rightly for all their figures",
        "easy": "share of questions answered rightly for the original figure, or without one",
        "hard": "share of questions answered rightly for all figures that were changed",
        "inconsistent": "share of figures with right and wrong answers",
        "answered": "share of answers that take a side",
    }

    def __init__(self, file: str, judge: Judge | None = None, prompt: JudgePrompt | None = None):
        self.file, self.judge, self.prompt = file, judge, prompt

    def items(self) -> list[Item]:
        """The questions; some have no image."""
        file_hash(self.file)
        items: dict[str, Item] = {}
        for place, row in read_objects(self.file, "--benchmark_files"):
            item = _item(f"{self.file}, {place}", row)
            if item.id in items:
                raise ValueError(f"{self.file}, {place}: question {item.id} comes twice")
            items[item.id] = item
        if not items:
            raise ValueError(f"{self.file}: no questions")
        return list(items.values())

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """As `Benchmark.own_layout`: the published list with `model_prediction` filled in."""
        if have(answers, *_NAME, "model_prediction"):
            return [{"id": _name(answer), "answer": answer["model_prediction"]} for answer in answers]
        return answers

    def check(self, answers: Sequence[Record], leave_out_missing: bool) -> None:
        """As `Benchmark.check`; all questions have the same number of answers."""
        _samples(match_answers(self.items(), answers, leave_out_missing))

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Read the answers, by the judge or the rule, and count questions, figures and pairs of questions."""
        items = self.items()
        matched = match_answers(items, answers, leave_out_missing)
        samples = _samples(matched)
        asked = [(item, text) for item, texts in matched for text in texts]
        outcomes, read_by = self._outcomes(asked)
        by_item = {
            item.id: outcomes[place * samples : (place + 1) * samples]
            for place, (item, _) in enumerate(matched)
        }
        groups = [_groups(items, by_item, name, key) for name, key in _KEYS.items()]
        scored = [
            ItemScore(item.id, item.category, item.truth["set"], _values(by_item[item.id], item, groups))
            for item, _ in matched
        ]
        conditions = {"file": file_hash(self.file), "verdict": "rule" if self.judge is None else "judge"}
        return Scores(scored, conditions | read_by, {"missing": len(items) - len(scored)})

    def _outcomes(self, asked: Sequence[tuple[Item, str]]) -> tuple[list[Outcome], dict[str, Any]]:
        """What each answer is, and the conditions of a judge."""
        if self.judge is None:
            return [by_rule(text, item.truth["yes"]) for item, text in asked], {}
        prompts = [
            self.prompt.render(question=item.question, reference=item.truth["reference"], answer=text)
            for item, text in asked
        ]
        replies = self.judge.ask_all([Question(text) for text in prompts])
        conditions = judge_conditions(self.judge, self.prompt, replies)
        return [read_verdict(reply.text) for reply in replies], conditions


def is_right(outcome: Outcome, item: Item) -> bool:
    """Whether an outcome counts as right: without a figure, what can be known without one may be left open, as published."""
    return outcome == Outcome.RIGHT or (_without_figure(item) and outcome == Outcome.UNCLEAR)


def _without_figure(item: Item) -> bool:
    return item.category == SUPPLEMENT and item.truth["figure_id"] == _ORIGINAL


def _figure(item: Item) -> str | None:
    return None if _without_figure(item) else f"{item.truth['set']}_{item.truth['figure_id']}"


def _question(item: Item) -> str:
    return f"{item.truth['set']}_{item.truth['question_id']}"


# Metric → what its items are grouped by; None: an item is in no group.
_KEYS: Mapping[str, Callable[[Item], str | None]] = {
    "fAcc": _figure,
    "qAcc": _question,
    "easy": lambda item: _question(item) if item.truth["figure_id"] == _ORIGINAL else None,
    "hard": lambda item: _question(item) if item.truth["figure_id"] != _ORIGINAL else None,
}


def _groups(
    items: Sequence[Item],
    outcomes: Mapping[str, Sequence[Outcome]],
    metric: str,
    key: Callable[[Item], str | None],
) -> dict[str, dict[str, tuple[float, float]]]:
    """First item of each group → the group's values. A group of which some item has no answer counts nowhere."""
    members: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        group = key(item)
        if group is not None:
            members[group].append(item)
    found = {}
    for group in members.values():
        if not all(item.id in outcomes for item in group):
            continue
        samples = zip(*([is_right(one, item) for one in outcomes[item.id]] for item in group), strict=True)
        rights = [(all(row), any(row)) for row in samples]
        values = {metric: (float(sum(every for every, _ in rights)), float(len(rights)))}
        if metric == "fAcc":
            values["inconsistent"] = (
                float(sum(some and not every for every, some in rights)),
                float(len(rights)),
            )
        found[group[0].id] = values
    return found


def _values(
    outcomes: Sequence[Outcome], item: Item, groups: Sequence[Mapping[str, Mapping[str, tuple[float, float]]]]
) -> dict[str, tuple[float, float]]:
    values = dict.fromkeys(HallusionBench.metrics, (0.0, 0.0))
    right = sum(is_right(outcome, item) for outcome in outcomes)
    answered = sum(outcome != Outcome.UNCLEAR for outcome in outcomes)
    values |= {"aAcc": (right, len(outcomes)), "answered": (answered, len(outcomes))}
    for group in groups:
        values |= group.get(item.id, {})
    return values


def _samples(matched: Sequence[tuple[Item, Sequence[str]]]) -> int:
    counts = {len(texts) for _, texts in matched}
    if len(counts) > 1:
        raise ValueError(
            f"answers: questions have {sorted(counts)} answers each; figures and pairs of questions want the same number of all"
        )
    return counts.pop()


def _name(row: Mapping[str, Any]) -> str:
    return "_".join(str(row[name]) for name in _NAME)


def _item(where: str, row: Mapping[str, Any]) -> Item:
    for name in _FIELDS:
        kinds = str if name == "question" else str | int
        if not isinstance(row.get(name), kinds) or str(row[name]).strip() == "":
            raise ValueError(
                f"{where}, field {name!r}: {row.get(name)!r} must be a text; is this HallusionBench.json?"
            )
    if str(row["category"]) not in ("VD", SUPPLEMENT):
        raise ValueError(f"{where}, field 'category': {row['category']!r} must be 'VD' or 'VS'")
    if str(row.get("gt_answer")) not in ("0", "1"):
        raise ValueError(
            f"{where}, field 'gt_answer': {row.get('gt_answer')!r} must be '0' (no) or '1' (yes)"
        )
    image = row.get("filename") or ""
    if not isinstance(image, str):
        raise ValueError(
            f"{where}, field 'filename': {image!r} must be a path, or absent where there is no image"
        )
    yes = str(row["gt_answer"]) == "1"
    truth = {
        "yes": yes,
        "reference": str(row["gt_answer_details"]),
        "set": "_".join(str(row[name]) for name in ("category", "subcategory", "set_id")),
        "figure_id": str(row["figure_id"]),
        "question_id": str(row["question_id"]),
    }
    kind = AnswerType.YES_IN_YESNO if yes else AnswerType.NO_IN_YESNO
    path = str(PurePosixPath(image)) if image else ""
    return Item(_name(row), row["question"].strip(), path, str(row["category"]), kind, truth)
