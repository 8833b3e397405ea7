"""POPE: is there a THING in the image? (Li et al., arXiv 2305.10355), with the published reading of answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from data_utils.schema import AnswerType
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
    read_objects,
    summed,
)
from llava_rlhf.evaluation.benchmarks.published_answers import by_question_id, have, in_order, unknown_layout

_NO_WORDS = frozenset({"No", "no", "not"})
FLAG = "--benchmark_files"
_LABELS = {"yes": True, "no": False}


def says_yes(answer: str) -> bool:
    """Whether an answer counts as "yes", by the published rule.

    What stands before the first full stop, commas removed, is split at spaces; with "No", "no" or "not" among these words
    it is a "no", and everything else is a "yes": an empty answer and "NO" too. Other rules would give other numbers.
    """
    return _NO_WORDS.isdisjoint(answer.split(".")[0].replace(",", "").split(" "))


def is_unclear(answer: str) -> bool:
    """Whether an answer says neither yes nor no (as a word, in any case, anywhere): the published rule counts it all the
    same."""
    return re.search(r"\b(yes|no|not)\b", answer, re.IGNORECASE) is None


class Pope(Benchmark):
    """The published files, one for each way of choosing the absent things.

    Args:
        files: JSON Lines or JSON lists with `question_id`, `image`, `text` and `label` ("yes" or "no").
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "accuracy": "share of questions answered rightly",
        "precision": "share of right ones among the yes answers",
        "recall": "share of the things that are there which are answered yes",
        "f1": "harmonic mean of precision and recall",
        "yes_ratio": "share of yes answers; half of the things are there",
        "unclear": "share of answers with neither yes nor no in them, which the published rule counts as yes",
    }

    def __init__(self, files: Sequence[str]):
        self.files = list(files)
        names = [_category(path) for path in files]
        if not files or len(set(names)) < len(names):
            raise ValueError(
                f"--benchmark_files {' '.join(files)}: pope wants its files, each with another name"
            )

    def items(self) -> list[Item]:
        """The questions of all files."""
        return [item for path in self.files for item in _read(path)]

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """As `Benchmark.own_layout`: those of LLaVA's evaluation and of POPE's own script."""
        if have(answers, "question_id", "text"):
            return by_question_id(self.items(), answers)
        if have(answers, "question", "answer"):
            return in_order(self.items(), answers)
        if have(answers):
            raise unknown_layout(
                answers, "question_id, prompt, text (LLaVA); question, answer in order (POPE)"
            )
        return answers

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Counts of right and wrong answers."""
        items = self.items()
        matched = match_answers(items, answers, leave_out_missing)
        scored = [
            ItemScore(
                item.id, item.category, item.image, summed([_values(text, item.truth) for text in texts])
            )
            for item, texts in matched
        ]
        conditions = {"files": {_category(path): file_hash(path) for path in self.files}}
        return Scores(scored, conditions, {"missing": len(items) - len(scored)})


def _values(answer: str, there: bool) -> dict[str, tuple[float, float]]:
    yes = says_yes(answer)
    hit, wrong_yes, wrong_no = yes and there, yes and not there, there and not yes
    return {
        "accuracy": (yes == there, 1),
        "precision": (hit, yes),
        "recall": (hit, there),
        "f1": (2 * hit, 2 * hit + wrong_yes + wrong_no),
        "yes_ratio": (yes, 1),
        "unclear": (is_unclear(answer), 1),
    }


def _category(path: str) -> str:
    """`coco_pope_random.json` → `random`; a file with another name is called by it."""
    stem = Path(path).stem
    last = stem.split("_")[-1]
    return last if last in ("random", "popular", "adversarial") else stem


def _read(path: str) -> list[Item]:
    items: dict[str, Item] = {}
    file_hash(path)
    for place, row in read_objects(path, FLAG):
        wrong = [name for name in ("image", "text", "label") if not isinstance(row.get(name), str)]
        wrong += [] if "question_id" in row else ["question_id"]
        if wrong:
            raise ValueError(
                f"{path}, {place}: field {wrong[0]!r} is missing or no text; its fields are {sorted(row)}"
            )
        if row["label"] not in _LABELS:
            raise ValueError(f"{path}, {place}: field 'label': {row['label']!r} must be 'yes' or 'no'")
        identity, there = f"{_category(path)}/{row['question_id']}", _LABELS[row["label"]]
        if identity in items:
            raise ValueError(f"{path}, {place}: question_id {row['question_id']!r} comes twice")
        kind = AnswerType.YES_IN_YESNO if there else AnswerType.NO_IN_YESNO
        items[identity] = Item(identity, row["text"].strip(), row["image"], _category(path), kind, there)
    if not items:
        raise ValueError(f"{path}: no questions")
    return list(items.values())
