"""Answers in the layouts that others publish, brought to that of an answers file where they can be matched without doubt."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from data_utils.foreign_rows import format_name
from llava_rlhf.evaluation.benchmarks.items import FIELDS, Item, Record


def have(answers: Sequence[Record], *fields: str) -> bool:
    """Whether every answer has these fields, and none an id."""
    return all("id" not in answer and all(field in answer for field in fields) for answer in answers)


def unknown_layout(answers: Sequence[Record], known: str) -> ValueError:
    """What is wrong with answers that are in no layout that is read."""
    fields = sorted(answers[0])
    name = format_name(answers[0])
    like = f", those of {name}" if name else ""
    return ValueError(f"answers: the first has the fields {fields}{like}. {FIELDS}. Also read: {known}")


def in_order(items: Sequence[Item], answers: Sequence[Record]) -> list[Record]:
    """Answers with `question` and `answer`, in the order of the questions, as POPE's own script compares them."""
    if len(answers) != len(items):
        raise ValueError(
            f"answers: {len(answers)} without id to {len(items)} questions; such answers are told by their order, one to "
            f"each question. {FIELDS}"
        )
    for number, (item, answer) in enumerate(zip(items, answers, strict=True), 1):
        if not str(answer["question"]).strip().startswith(item.question):
            raise ValueError(
                f"answers, line {number}: answers {answer['question']!r}, but question {number} is {item.question!r}; "
                f"answers without id are told by their order. {FIELDS}"
            )
    return [{**answer, "id": item.id} for item, answer in zip(items, answers, strict=True)]


def by_question_id(items: Sequence[Item], answers: Sequence[Record]) -> list[Record]:
    """Answers with `question_id` and `text`, and mostly `prompt`, as LLaVA writes them."""

    def fits(item: Item, answer: Record) -> bool:
        prompt = answer.get("prompt")
        return prompt is None or str(prompt).replace("<image>", "").strip().startswith(item.question)

    def found(answer: Record) -> dict[str, Any]:
        return {"answer": answer["text"]}

    return _by_key(items, answers, lambda item: item.id.split("/", 1)[-1], "question_id", fits, found)


def by_image_and_question(items: Sequence[Item], answers: Sequence[Record]) -> list[Record]:
    """The published list of MMHal-Bench with `model_answer` filled in."""
    plain = [
        {**answer, "key": f"{_last_part(answer.get('image_src'))} {str(answer['question']).strip()}"}
        for answer in answers
    ]
    return _by_key(
        items,
        plain,
        lambda item: f"{PurePosixPath(item.image).name} {item.question}",
        "key",
        lambda item, answer: True,
        lambda answer: {"answer": answer["model_answer"]},
    )


def by_image_number(items: Sequence[Item], answers: Sequence[Record], field: str = "caption") -> list[Record]:
    """Captions with `image_id`, and their text in a field, as COCO's results have them."""
    return _by_key(
        items,
        answers,
        lambda item: _number(item.image),
        "image_id",
        lambda item, answer: True,
        lambda answer: {"answer": answer[field]},
    )


def _by_key(
    items: Sequence[Item],
    answers: Sequence[Record],
    key_of: Callable[[Item], str],
    field: str,
    fits: Callable[[Item, Record], bool],
    found: Callable[[Record], dict[str, Any]],
) -> list[Record]:
    """Answers with the ids of their items. Raises ValueError where a key stands for none or several."""
    by_key: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_key[key_of(item)].append(item)
    result: list[Record] = []
    for number, answer in enumerate(answers, 1):
        fitting = [item for item in by_key[str(answer[field])] if fits(item, answer)]
        if len(fitting) != 1:
            what = "no question" if not fitting else "several questions"
            files = "" if not fitting else "; score one of --benchmark_files at a time"
            raise ValueError(
                f"answers, line {number}: {field} {answer[field]!r} belongs to {what} of this benchmark{files}. {FIELDS}"
            )
        result.append({"id": fitting[0].id, **found(answer)})
    return result


def _last_part(address: Any) -> str:
    return PurePosixPath(str(address or "").split("?", 1)[0]).name


def _number(image: str) -> str:
    found = re.search(r"(\d+)$", PurePosixPath(image).stem)
    return str(int(found[1])) if found else image
