"""Somebody's own pictures: tables of captions and questions → rows in the published formats."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_utils.images import check_image
from data_utils.problems import Problem, shorten
from data_utils.schema import IMAGE_MARKER, AnswerType, PreferenceRecord
from data_utils.tables import TableRow, read_list, read_table

ANSWERS = {
    "yes": AnswerType.YES_IN_YESNO,
    "no": AnswerType.NO_IN_YESNO,
    "a": AnswerType.A_IN_ABCD,
    "b": AnswerType.B_IN_ABCD,
    "c": AnswerType.C_IN_ABCD,
    "d": AnswerType.D_IN_ABCD,
}
LABELS = {AnswerType.YES_IN_YESNO: "yes", AnswerType.NO_IN_YESNO: "no"}
NO_MARKER = f"must not hold {IMAGE_MARKER}, which is put in front of it"


@dataclass(frozen=True)
class CheckedQuestion:
    """A question whose right answer is known."""

    text: str
    answer: AnswerType


def read_caption_table(
    path: str | Path, image_folder: str | Path
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Image → captions, from a table with the columns image and caption; every image is looked at once."""
    rows, problems = read_table(path, ("image", "caption"))
    captions: dict[str, list[str]] = {}
    unusable: set[str] = set()
    for row in tqdm(rows, desc="looking at pictures", unit="caption", disable=None):
        image, caption = row.cells["image"], row.cells["caption"]
        if image in unusable:
            continue
        if image not in captions and (reason := _name_reason(image) or check_image(image_folder, image)):
            unusable.add(image)
            problems.append(row.problem("image", reason))
        elif caption in captions.setdefault(image, []):
            problems.append(row.problem("caption", "this image has this caption already; delete the row"))
        else:
            captions[image].append(caption)
    if not rows and not problems:
        problems.append(Problem(str(path), None, "caption", "no rows", "must have a row for each caption"))
    return captions, problems


def _name_reason(image: str) -> str | None:
    """Names are compared as texts: under two spellings a picture could be set aside and trained on at once."""
    plain = posixpath.normpath(image)
    return None if image == plain else f"write {plain}, so that every picture has one name"


def read_questions(path: str | Path) -> tuple[list[str], list[Problem]]:
    """Open questions, one a line."""
    lines, problems = read_list(path)
    questions: list[str] = []
    for number, text in lines:
        remedy = NO_MARKER if IMAGE_MARKER in text else "stands there twice; delete one"
        if IMAGE_MARKER in text or text in questions:
            problems.append(Problem(str(path), number, "question", shorten(text), remedy))
        else:
            questions.append(text)
    if not lines and not problems:
        problems.append(
            Problem(str(path), None, "question", "no lines", "must have at least one question, one a line")
        )
    return questions, problems


def read_checked_questions(
    path: str | Path, captioned: Collection[str] | None
) -> tuple[dict[str, list[CheckedQuestion]], list[Problem]]:
    """Image → questions with known answers, from a table with the columns image, question and answer.

    Args:
        path: the table.
        captioned: images that have captions, which others are refused for lacking; None: not known.
    """
    rows, problems = read_table(path, ("image", "question", "answer"))
    questions: dict[str, list[CheckedQuestion]] = {}
    for row in rows:
        if (problem := _checked_problem(row, questions, captioned)) is not None:
            problems.append(problem)
        else:
            checked = CheckedQuestion(row.cells["question"], ANSWERS[row.cells["answer"].lower()])
            questions.setdefault(row.cells["image"], []).append(checked)
    return questions, problems


def _checked_problem(
    row: TableRow, known: Mapping[str, Sequence[CheckedQuestion]], captioned: Collection[str] | None
) -> Problem | None:
    image, question, answer = (row.cells[column] for column in ("image", "question", "answer"))
    if captioned is not None and image not in captioned:
        return row.problem(
            "image", "has no caption in the table of captions; write it the same way, or add one"
        )
    if IMAGE_MARKER in question:
        return row.problem("question", NO_MARKER)
    if any(question == other.text for other in known.get(image, ())):
        return row.problem("question", "is asked about this image twice; delete one row")
    if answer.lower() not in ANSWERS:
        return row.problem("answer", "must be yes, no, A, B, C or D")
    return None


def prompt_rows(
    image: str, questions: Sequence[str], checked: Sequence[CheckedQuestion], captions: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of the PPO prompt format about one image: open questions first, then those with a known answer.

    Checked questions carry `length_bonus` 0: only descriptions can be too long. Multiple-choice rows carry the captions
    themselves, since the caption map is asked for a rationale of theirs, which nobody wrote.
    """
    asked = [(text, AnswerType.GENERAL) for text in questions]
    asked += [(question.text, question.answer) for question in checked]
    rows = []
    for number, (text, kind) in enumerate(asked):
        row: dict[str, Any] = {
            "id": f"{image}#{number}",
            "image": image,
            "conversations": [{"from": "human", "value": f"{IMAGE_MARKER}\n{text}"}],
            "caption_type": int(kind),
        }
        if kind is not AnswerType.GENERAL:
            row["length_bonus"] = 0.0
            if kind not in LABELS:
                row["captions"] = list(captions)
        rows.append(row)
    return rows


def benchmark_rows(prompts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The yes/no questions among rows of `prompt_rows`, in POPE's format."""
    return [
        {
            "question_id": row["id"],
            "image": row["image"],
            "text": row["conversations"][0]["value"].removeprefix(f"{IMAGE_MARKER}\n"),
            "label": LABELS[AnswerType(row["caption_type"])],
        }
        for row in prompts
        if row["caption_type"] in LABELS
    ]


def dialogue_row(record: PreferenceRecord) -> dict[str, Any]:
    """A preference pair as a dialogue that ends with the preferred answer."""
    turns = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    turns.append({"from": "gpt", "value": record.outputs[record.preference - 1]})
    image = {"image": record.images[0] if len(record.images) == 1 else list(record.images)}
    return {"id": record.id, **(image if record.images else {}), "conversations": turns}
