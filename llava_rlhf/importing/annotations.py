"""Annotation files and VQA rows: COCO captions and instances, VQAv2, A-OKVQA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_utils.json_stream import stream_members
from data_utils.own_pictures import ANSWERS, LABELS
from data_utils.problems import is_unicode, shorten
from data_utils.row_fields import BadField, checked_text
from data_utils.schema import AnswerType
from llava_rlhf.importing.fields import row_pictures
from llava_rlhf.importing.outcomes import Captions, Context, Objects, Picture, Question

COCO_SOURCE = "coco"
LETTERS = (AnswerType.A_IN_ABCD, AnswerType.B_IN_ABCD, AnswerType.C_IN_ABCD, AnswerType.D_IN_ABCD)
# Checked answers are short; only descriptions can be too long.
_CHECKED = {"length_bonus": 0.0}


def coco_tables(files: Sequence[Path]) -> dict[str, dict[Any, Any]]:
    """What annotations refer to: `images` (id → file name), `categories` (id → name). Raises ValueError naming the file."""
    tables: dict[str, dict[Any, Any]] = {"images": {}, "categories": {}}
    names = {"images": "file_name", "categories": "name"}
    for path in files:
        for key, item in stream_members(path):
            if key in tables:
                if not _has(item, "id", names[key]):
                    raise ValueError(
                        f"{path}: {key} must be objects with id and {names[key]}, and one is {shorten(item)}"
                    )
                tables[key][item["id"]] = item[names[key]]
    return tables


def coco_captions(row: Mapping[str, Any], context: Context) -> Iterator[Captions]:
    """An annotation of COCO's captions: `image_id`, `caption`."""
    caption = checked_text(row.get("caption"), "caption").strip()
    if not caption:
        raise BadField("caption", row["caption"], "must not be empty")
    yield Captions(_known(row, "image_id", context, "images"), (caption,))


def coco_instances(row: Mapping[str, Any], context: Context) -> Iterator[Objects]:
    """An annotation of COCO's instances: `image_id`, `category_id`. Objects of one kind become one fact."""
    image = _known(row, "image_id", context, "images")
    name = _known(row, "category_id", context, "categories")
    yield Objects(image, {"source": COCO_SOURCE, "object": name, "confidence": 1.0})


def _known(row: Mapping[str, Any], field: str, context: Context, key: str) -> str:
    value, table = row.get(field), context.tables.get(key, {})
    if isinstance(value, (int, str)) and value in table:
        return table[value]
    raise BadField(field, value, f"is no id of `{key}` in this file")


def vqa_questions(files: Sequence[Path]) -> dict[str, dict[Any, Any]]:
    """`questions` (question_id → (question, part of COCO)) of VQAv2's files of questions. Raises ValueError."""
    found: dict[Any, tuple[str, str]] = {}
    for path in files:
        part = ""
        for key, item in stream_members(path):
            if key == "data_subtype":
                part = str(item)
            elif key == "questions":
                if not _has(item, "question_id", "question"):
                    raise ValueError(
                        f"{path}: questions must be objects with question_id and question: {shorten(item)}"
                    )
                found[item["question_id"]] = item["question"], part
    return {"questions": found}


def _has(item: Any, identity: str, name: str) -> bool:
    """Whether this is an object with a number or a text as its id, and a text as its name."""
    if not isinstance(item, dict) or not isinstance(item.get(identity), int | str):
        return False
    return isinstance(item.get(name), str) and is_unicode(item[name])


def vqa_v2(row: Mapping[str, Any], context: Context) -> Iterator[Question]:
    """VQAv2: `image_id`, `question_id`, `answer_type`, `multiple_choice_answer`; a row with `question` needs no second file.

    A yes/no question has its right answer as its type; others are open ones, their answer kept as `answer`.
    """
    question, part = row.get("question"), ""
    if question is None:
        questions = context.tables.get("questions", {})
        if not isinstance(row.get("question_id"), int | str) or row["question_id"] not in questions:
            raise BadField(
                "question_id",
                row.get("question_id"),
                "is no question of a file of questions: name both files with --source",
            )
        question, part = questions[row["question_id"]]
    text = _question(question, "question")
    answer = checked_text(row.get("multiple_choice_answer"), "multiple_choice_answer").strip()
    right = ANSWERS.get(answer.lower())
    if row.get("answer_type") != "yes/no" or right not in LABELS:
        yield Question(text, _picture(row, part), extra={"answer": answer})
    else:
        yield Question(text, _picture(row, part), right, _CHECKED)


def a_okvqa(row: Mapping[str, Any], context: Context) -> Iterator[Question | Captions]:
    """A-OKVQA: `question`, four `choices`, `correct_choice_idx`, `rationales` (facts of its multiple-choice questions)."""
    choices, right = row.get("choices"), row.get("correct_choice_idx")
    if not isinstance(choices, list) or len(choices) != 4 or not all(isinstance(one, str) for one in choices):
        raise BadField("choices", choices, "must be four texts, A to D")
    if type(right) is not int or not 0 <= right < 4:
        raise BadField("correct_choice_idx", right, "must be 0 to 3 (the test split has no answers)")
    rationales = row.get("rationales") or []
    if not isinstance(rationales, list):
        raise BadField("rationales", rationales, "must be a list of texts")
    texts = [checked_text(one, f"rationales[{index}]") for index, one in enumerate(rationales)]
    letters = [f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    text = "\n".join([_question(row.get("question"), "question"), *letters])
    picture = _picture(row, f"{row.get('split', 'train')}2017")
    yield Question(text, picture, LETTERS[right], _CHECKED)
    if texts:
        yield Captions(picture, texts, "aok_")


def _question(value: Any, field: str) -> str:
    text = checked_text(value, field).strip()
    if not text:
        raise BadField(field, value, "the question must not be empty")
    return text


def _picture(row: Mapping[str, Any], part: str) -> Picture:
    """The picture of a VQA row: its own, or COCO's by number, under the names that COCO's folders give it."""
    if (own := row_pictures(row, "image")) and len(own) == 1:
        return own[0]
    number = row.get("image_id")
    if type(number) is not int or not 0 <= number < 10**12:
        raise BadField("image_id", number, "must be the number of a picture of COCO")
    parts = dict.fromkeys(
        [part, *(f"{name}{year}" for year in (2014, 2017) for name in ("train", "val", "test"))]
    )
    plain = [f"{number:012d}.jpg", *(f"{one}/{number:012d}.jpg" for one in parts if one)]
    long = [f"{folder}COCO_{one}_{number:012d}.jpg" for one in parts if one for folder in ("", f"{one}/")]
    return Picture("image_id", number, (*long, *plain))
