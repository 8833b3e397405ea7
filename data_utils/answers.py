"""Answers files: one answer to one prompt a row, as `answer_prompts.py` writes them, ready to be scored.

JSON Lines or one JSON list (gzip or not). A row has `question`, `answer`, and `image` as a prompt has it; it may have:

    id           string or integer
    answer_type  `GENERAL`, `A_IN_ABCD` …, or `caption_type` 1 to 7 as in the prompt files (absent: GENERAL)
    captions     the prompt's own, read where the caption map does not know the image
    facts        the prompt's own, beside captions
    stopped      false: the answer was cut off, so no stop token follows it (absent: true)
    prompt_row   the prompt's row in its file, which orders the captions (absent: the row of the answers file)

Left out on purpose: answers within a dialogue (the published prompts have one question each). Answers come as text: one
that was sampled in pieces that the tokenizer would not choose is scored as the tokenizer writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets as hf
import torch
from datasets import Value

from data_utils.conversation import Segment, Template, query_segments
from data_utils.datasets import ExampleDataset
from data_utils.fact_lists import NO_FACTS, FactList, fact_list
from data_utils.facts import FactBook, RewardPrompt
from data_utils.foreign_rows import ANSWER, format_name, refuse_other_format
from data_utils.items import Grids
from data_utils.json_files import read_rows
from data_utils.pictures_elsewhere import refuse_other_markers
from data_utils.problems import DataError, Problem, is_unicode, shorten, unreadable
from data_utils.row_fields import BadField
from data_utils.row_settings import RowSettings, beyond_one
from data_utils.schema import (
    IMAGE_MARKER,
    ROWS,
    AnswerType,
    Record,
    Turn,
    bad_row,
    refuse_no_row,
    refuse_unread_fields,
)
from data_utils.tokens import SegmentEncoder

PAIR_FIELDS = frozenset({"output_1", "output_2", "preference"})


@dataclass(frozen=True)
class AnswerRecord(Record):
    """One answer; `turns` holds the question, `extra` every field that is not read here."""

    answer: str
    answer_type: AnswerType
    stopped: bool
    prompt_row: int | None


@dataclass(frozen=True)
class AnswerItem:
    """An answer to be scored: ids of query + answer + reward prompt (one sequence); images and `grids` as in `PairItem`."""

    input_ids: tuple[list[int]]
    images: torch.Tensor
    grids: Grids | None = None


class AnswerDataset(ExampleDataset[AnswerItem]):
    """Answers for a reward model to score."""

    features = hf.Features({"row": Value("int64"), "ids": [Value("int32")], "images": [Value("string")]})

    def _item(self, row: dict[str, Any]) -> AnswerItem:
        images, _ = self._images(row)
        return AnswerItem((row["ids"],), images.pixels, images.grids)


def file_kind(path: str | Path) -> Literal["pairs", "answers"]:
    """What a data file holds, by the fields of its rows. Raises DataError when that can't be told."""
    rows, problems = _load_rows(path)
    if problems:
        raise DataError(problems)
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        fields = set(row) if isinstance(row, dict) else set()
        if fields & PAIR_FIELDS:
            first.setdefault("pairs", number)
        if "answer" in fields:
            first.setdefault("answers", number)
    if len(first) == 1:
        return next(iter(first))
    if first:
        value = f"row {first['pairs']} is a preference pair, row {first['answers']} an answer"
        remedy = "one file holds either; split it"
    else:
        row = rows[0] if rows and isinstance(rows[0], dict) else None
        value = f"fields of the first row: {shorten(None if row is None else sorted(row))}"
        remedy = "neither preferences (conversations, output_1, output_2, preference) nor answers (question, answer)"
        name = None if row is None else format_name(row)
        remedy += f": these are the fields of {name}" if name else ""
    raise DataError([Problem(str(path), None, "file", value, remedy)])


def read_answers(path: str | Path) -> tuple[list[AnswerRecord], list[Problem]]:
    """Read an answers file; a row with a problem gives no record."""
    rows, problems = _load_rows(path)
    records: list[AnswerRecord] = []
    for number, row in enumerate(rows):
        record, wrong = answer_record(row, str(path), number)
        problems += wrong
        if record is not None:
            records.append(record)
    return records, problems


def answer_record(row: Any, file: str, number: int) -> tuple[AnswerRecord | None, list[Problem]]:
    """One row as a record, or None with its problems; `file` and `number` say in messages where it stands."""
    wrong = _wrong_fields(row)
    if wrong:
        return None, [bad_row(file, number, bad) for bad in wrong]
    return _record(row, file, number), []


def build_answers(
    path: str | Path, settings: RowSettings, *, facts: FactBook, prompt: RewardPrompt, seed: int
) -> AnswerDataset:
    """Answers as query + answer (+ stop) + reward prompt, the sequence that PPO scores.

    Limits in tokens: the query, the answer with its stop, and the whole sequence. Raises DataError.
    """
    records, problems = read_answers(path)
    encoder, template = settings.encoder, settings.template
    row_filter = settings.row_filter(path, problems)
    row_filter.report.answer_types = Counter()
    for record in row_filter.usable(records, settings.image_folder):
        row = record.row if record.prompt_row is None else record.prompt_row
        captions = row_filter.captions(record, record.answer_type, facts, prompt, seed, row)
        if captions is None:
            continue
        asked = scored_ids(record, captions, encoder, template, prompt)
        ids, query, response = asked.ids, asked.query, asked.response
        pictures = settings.picture_lengths(record.images)
        total = len(ids) + beyond_one(pictures)
        if row_filter.fits(settings.limits, query, response, total):
            kept = {"row": record.row, "ids": ids, "images": record.images}
            row_filter.keep(kept, {"query": [query], "response": [response], "total": [total], **pictures})
            row_filter.describe(encoder, kept["ids"], captions if prompt.uses_facts else None)
            row_filter.count_facts(facts.known(record, record.answer_type))
            texts = [record.turns[0].text.replace(IMAGE_MARKER, ""), record.answer]
            row_filter.count_unknown(encoder, [kept["ids"][: query + response]], texts, captions)
            row_filter.report.answer_types[record.answer_type.name] += 1
    return AnswerDataset(row_filter.finish(), settings.image_folder, settings.pipeline, row_filter.report)


class ScoredIds(NamedTuple):
    """The sequence that a reward model reads.

    Attributes:
        ids: of query, answer (with its stop) and reward prompt; an image is one token.
        query, response: tokens of the first two.
    """

    ids: list[int]
    query: int
    response: int


def scored_ids(
    record: AnswerRecord,
    captions: Sequence[str],
    encoder: SegmentEncoder,
    template: Template,
    prompt: RewardPrompt,
) -> ScoredIds:
    """An answer as it is scored, the facts in the order of `captions`."""
    reward_prompt = encoder.encode_behind(template.reward_prompt(prompt.render(captions)))
    segments = query_segments(template, record.turns, len(record.images))
    query = len(encoder.encode(segments).ids)
    answered = encoder.encode([*segments, *answer_segments(record.answer, record.stopped, template)]).ids
    return ScoredIds([*answered, *reward_prompt], query, len(answered) - query)


def answer_segments(answer: str, stopped: bool, template: Template) -> list[Segment]:
    """Segments of an answer behind its query; one that was cut off (`stopped` False) has no stop token."""
    # A policy that stops at once says nothing: not even the space in front of an answer.
    segments = template.answer(answer) if answer else []
    return segments + ([Segment("stop", template.stop, True)] if stopped else [])


def _load_rows(path: str | Path) -> tuple[list[Any], list[Problem]]:
    try:
        return read_rows(path), []
    except ValueError as error:
        return [], [unreadable(path, error, ROWS)]


def _wrong_fields(row: Any) -> list[BadField]:
    """Everything that keeps a row from being an answer."""
    if (no_row := refuse_no_row(row)) is not None:
        return [BadField(*no_row)]
    try:
        refuse_other_format(row, ANSWER)
        refuse_unread_fields(row, ANSWER)
    except BadField as bad:
        return [bad]
    wrong = [
        BadField(name, row.get(name), remedy)
        for name, (fits, remedy) in _CHECKS.items()
        if (name in _REQUIRED or row.get(name) is not None) and not fits(row.get(name))
    ]
    if wrong:
        return wrong
    try:
        refuse_other_markers("question", row["question"])
        _facts(row)
    except BadField as bad:
        return [bad]
    names, markers = _image_names(row), row["question"].count(IMAGE_MARKER)
    if markers not in (0, len(names)):
        value = f"{markers} marker(s) for {len(names)} image(s)"
        remedy = f"needs one {IMAGE_MARKER} marker for each image, or none at all"
        wrong.append(BadField("question", value, remedy))
    if not names and not row["question"].strip():
        wrong.append(BadField("question", row["question"], "a question without image needs a text"))
    kind, number = row.get("answer_type"), row.get("caption_type")
    if kind is not None and number is not None and AnswerType[kind] != number:
        remedy = f"answer_type is {kind}, which is {AnswerType[kind]:d}; keep one"
        wrong.append(BadField("caption_type", number, remedy))
    return wrong


def _record(row: dict[str, Any], file: str, number: int) -> AnswerRecord:
    names = _image_names(row)
    question = IMAGE_MARKER * len(names) + row["question"].replace(IMAGE_MARKER, "")
    kind = row.get("answer_type")
    return AnswerRecord(
        file=file,
        row=number,
        id=str(row["id"]) if row.get("id") is not None else "",
        images=names,
        turns=(Turn("human", question),),
        captions=None if row.get("captions") is None else tuple(row["captions"]),
        facts=_facts(row),
        extra={name: value for name, value in row.items() if name not in (*_CHECKS, "facts")},
        answer=row["answer"],
        answer_type=AnswerType[kind] if kind is not None else AnswerType(row.get("caption_type") or 1),
        stopped=row.get("stopped") is not False,
        prompt_row=row.get("prompt_row"),
    )


def _facts(row: dict[str, Any]) -> FactList:
    return NO_FACTS if row.get("facts") is None else fact_list(row["facts"], "facts")


def _image_names(row: dict[str, Any]) -> tuple[str, ...]:
    names = row.get("image")
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_unicode(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _are_names(value: Any) -> bool:
    return _are_texts(value) and all(name.strip() for name in value)


# Field of a row → what its value must be (a check, and how to say it); only `question` and `answer` must be there.
_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (lambda value: type(value) is int or _is_text(value), "must be a string or an integer"),
    "question": (_is_text, "must be a string"),
    "answer": (_is_text, "must be a string"),
    "image": (
        lambda value: _are_names([value] if isinstance(value, str) else value),
        "must be a file name or a list of file names (absent: no image)",
    ),
    "captions": (_are_texts, "must be a list of strings"),
    "stopped": (lambda value: type(value) is bool, "must be true or false (absent means true)"),
    "prompt_row": (lambda value: type(value) is int and value >= 0, "must be an integer of at least 0"),
    "answer_type": (
        lambda value: isinstance(value, str) and value in AnswerType.__members__,
        f"must be one of {', '.join(AnswerType.__members__)} (absent means GENERAL)",
    ),
    "caption_type": (
        lambda value: type(value) is int and value in set(AnswerType),
        "must be an integer from 1 to 7 (absent means 1)",
    ),
}
_REQUIRED = frozenset({"question", "answer"})
