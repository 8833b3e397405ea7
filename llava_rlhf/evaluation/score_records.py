"""What the file of scores says of each pair and each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_utils.answers import AnswerRecord, read_answers
from data_utils.conversation import message_parts
from data_utils.problems import DataError, Problem, shorten
from data_utils.schema import AnswerType, PreferenceRecord, read_preferences


def describe_pairs(path: str, rows: Sequence[int]) -> list[dict[str, Any]]:
    """These rows of a preference file, before they have scores.

    Raises:
        DataError: a `caption_type`, by which the numbers are split, that is none.
    """
    records = {record.row: record for record in read_preferences(path)[0]}
    problems = [
        Problem(path, row, "caption_type", shorten(kind), "must be an integer from 1 to 7 (absent means 1)")
        for row in rows
        if (kind := records[row].extra.get("caption_type")) is not None
        and (type(kind) is not int or kind not in set(AnswerType))
    ]
    if problems:
        raise DataError(problems)
    return [_describe_pair(records[row]) for row in rows]


def describe_answers(path: str, rows: Sequence[int]) -> list[dict[str, Any]]:
    """These rows of an answers file, before they have scores; fields that nothing reads (`sample`, …) are passed on."""
    records = {record.row: record for record in read_answers(path)[0]}
    return [_describe_answer(records[row]) for row in rows]


def with_pair_scores(record: Mapping[str, Any], scores: Sequence[float]) -> dict[str, Any]:
    """A pair with `scores`, `margin` (chosen − rejected) and `agrees` (None: a tie)."""
    chosen, rejected = scores if record["preference"] == 1 else reversed(scores)
    margin = chosen - rejected
    return {**record, "scores": list(scores), "margin": margin, "agrees": margin > 0 if margin else None}


def with_answer_score(record: Mapping[str, Any], scores: Sequence[float]) -> dict[str, Any]:
    """An answer with its `score`."""
    (score,) = scores
    return {**record, "score": score}


def with_members(record: Mapping[str, Any], members: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A scored row with `reward_models`: for each of its sequences the scores of each reward model; of an answer one list."""
    return {**record, "reward_models": list(members) if "scores" in record else list(members[0])}


def json_line(record: Mapping[str, Any]) -> str:
    """One line of JSON Lines."""
    # A field that is only passed on may hold half a surrogate pair, which JSON can spell and UTF-8 can't.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _describe_pair(record: PreferenceRecord) -> dict[str, Any]:
    kind = record.extra.get("caption_type")
    return {
        "row": record.row,
        "id": record.id,
        "image": list(record.images),
        **({} if kind is None else {"answer_type": AnswerType(kind).name}),
        "question": message_parts(record.turns[-1].text, len(record.images))[1],
        "responses": list(record.outputs),
        "preference": record.preference,
    }


def _describe_answer(record: AnswerRecord) -> dict[str, Any]:
    described = {
        "row": record.row,
        "id": record.id,
        "image": list(record.images),
        "answer_type": record.answer_type.name,
        "question": message_parts(record.turns[0].text, len(record.images))[1],
        "answer": record.answer,
        "stopped": record.stopped,
    }
    if record.prompt_row is not None:
        described["prompt_row"] = record.prompt_row
    return {**record.extra, **described}
