"""What all benchmarks share: items to answer, values of answered items, and how the two are brought together.

A metric is always a ratio of two sums over items, `sum(numerator) / sum(denominator)`: accuracy, F1 and CHAIR alike. So an
item has one pair of numbers for each metric, (0, 0) where it says nothing of it, and every interval and test is the same.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_utils.json_files import BadLine, read_placed_rows
from data_utils.problems import is_unicode
from data_utils.schema import AnswerType

Record = Mapping[str, Any]
SHOWN_IDS = 5
FIELDS = "An answers file has id, question, image and answer, as `evaluate answer` writes it"


@dataclass(frozen=True)
class Item:
    """One thing to ask.

    Attributes:
        id: unique in the benchmark; runs are paired by it.
        question: without image marker.
        image: relative to the image folder; "" where the question is asked without one.
        category: part of the benchmark that is also reported alone.
        answer_type: what the answer looks like.
        truth: what scoring needs, as the benchmark likes it.
    """

    id: str
    question: str
    image: str
    category: str
    answer_type: AnswerType = AnswerType.GENERAL
    truth: Any = None


@dataclass(frozen=True)
class ItemScore:
    """The values of one item.

    Attributes:
        id, category: the item's.
        cluster: items that share it (an image, mostly) stand or fall together; resampling takes them as one.
        values: metric → (numerator, denominator).
    """

    id: str
    category: str
    cluster: str
    values: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Scores:
    """The values of all items.

    Attributes:
        items: in the order of the benchmark.
        conditions: what must be the same for two runs to be compared: files, judge, word list …
        counts: numbers that are no metrics, such as verdicts that could not be read.
    """

    items: Sequence[ItemScore]
    conditions: Mapping[str, Any]
    counts: Mapping[str, Any] = field(default_factory=dict)


class Benchmark(ABC):
    """Questions with a way to score their answers.

    Class attributes:
        metrics: metric → what it says, in one sentence.
    """

    metrics: Mapping[str, str]

    @abstractmethod
    def items(self) -> list[Item]:
        """What to ask. Raises ValueError for a benchmark that scores a file of another program, and asks nothing."""

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """Answers in a layout that others publish as those of an answers file; all others as they are.

        Raises:
            ValueError: they can't be matched without doubt.
        """
        return answers

    def check(self, answers: Sequence[Record], leave_out_missing: bool) -> None:
        """What `score` refuses, before it is done: it may ask a judge. Arguments and errors as there."""
        match_answers(self.items(), answers, leave_out_missing)

    @abstractmethod
    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Values of the answers.

        Args:
            answers: lines of an answers file, in any order.
            leave_out_missing: items without an answer are left out and counted, instead of refused.

        Raises:
            ValueError: the answers are not those to this benchmark.
        """


def match_answers(
    items: Sequence[Item], answers: Sequence[Record], leave_out_missing: bool
) -> list[tuple[Item, list[str]]]:
    """Items with their answers' texts, one or (with several samples a prompt) more each.

    Raises:
        ValueError: an answer belongs to no item, was given to another question or image, or an item has none.
    """
    by_id = {item.id: item for item in items}
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for line, answer in enumerate(answers, 1):
        item = by_id.get(str(answer.get("id")))
        if item is None and answer.get("id") is None:
            raise ValueError(f"answers, line {line}: no id; its fields are {sorted(answer)}. {FIELDS}")
        if item is None:
            raise ValueError(
                f"answers, line {line}: id {answer.get('id')!r} is no item of this benchmark; was it asked?"
            )
        check_answer(line, answer)
        if not str(answer.get("question", item.question)).startswith(item.question):
            raise ValueError(
                f"answers, line {line}: item {item.id} asks {item.question!r}, not {answer['question']!r}"
            )
        shown = [item.image] if item.image else []
        if answer.get("image") not in (None, item.image, shown):
            raise ValueError(
                f"answers, line {line}: item {item.id} shows {item.image or 'no image'}, not {answer['image']}"
            )
        texts[item.id].append(answer["answer"])
    missing = [item.id for item in items if item.id not in texts]
    if missing and not (leave_out_missing and texts):
        raise ValueError(
            f"{len(missing)} of {len(items)} items have no answer, the first: {', '.join(missing[:SHOWN_IDS])}. "
            "Answer them, or score the others with --missing_items leave_out"
        )
    return [(item, texts[item.id]) for item in items if item.id in texts]


def check_answer(line: int, answer: Record) -> None:
    """Raise ValueError unless a line of an answers file has a text."""
    if not isinstance(answer.get("answer"), str):
        fields = "" if "answer" in answer else f"; its fields are {sorted(answer)}. {FIELDS}"
        raise ValueError(f"answers, line {line}: field 'answer' is {answer.get('answer')!r}, no text{fields}")


def checked_items(items: Sequence[Item]) -> Sequence[Item]:
    """The same items. Raises ValueError for one that could not be written as a prompt."""
    for item in items:
        for name in ("id", "question", "image"):
            value = getattr(item, name)
            if not isinstance(value, str) or not is_unicode(value):
                raise ValueError(
                    f"item {item.id!r}: its {name} is {value!r}, which is no text of valid Unicode"
                )
    return items


def summed(values: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Values of several answers to one item as one: numerators and denominators are added."""
    return {
        name: (sum(value[name][0] for value in values), sum(value[name][1] for value in values))
        for name in values[0]
    }


def read_objects(path: str | Path, flag: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list or of JSON Lines, with their places ("line 3", "row 2").

    Raises ValueError, naming the file as the flag's, where it can't be read or holds something else.
    """
    try:
        rows = read_placed_rows(path)
    except ValueError as error:
        raise ValueError(f"{flag} {path}: {error}") from None
    for place, row in rows:
        if isinstance(row, BadLine):
            raise ValueError(f"{flag} {path}, {place}: must be a JSON object a line ({row.reason})")
        if not isinstance(row, dict):
            raise ValueError(f"{flag} {path}, {place}: must be a JSON object")
    return rows


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content. Raises ValueError where there is no such file."""
    if not Path(path).is_file():
        raise ValueError(f"--benchmark_files {path}: no such file")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
