"""Fields that formats share: pictures under `image` or `images`, answers as texts or messages, pairs of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from data_utils.row_fields import BadField, checked_text
from data_utils.schema import Turn
from llava_rlhf.importing.conversations import (
    NO_ANSWER,
    answer_text,
    turns_of,
    with_markers,
    with_system,
)
from llava_rlhf.importing.outcomes import Pair, Picture

NO_VIDEO = "a row about a video or sound can't be used here: only pictures are read"


def row_pictures(row: Mapping[str, Any], *keys: str) -> tuple[Picture, ...]:
    """The pictures under the first of `keys` that the row has. Raises BadField for videos and for what is no picture."""
    for key in ("video", "videos", "audio", "audios"):
        if row.get(key):
            raise BadField(key, row[key], NO_VIDEO, f"key {key}")
    for key in keys:
        value = row.get(key)
        if value is None or value == [] or value == "":
            continue
        if not isinstance(value, list):
            return (Picture(key, value),)
        return tuple(Picture(f"{key}[{index}]", item) for index, item in enumerate(value))
    return ()


def one_answer(value: Any, field: str) -> str:
    """An answer as a text, as one message, or as a list of one message. Raises BadField."""
    if isinstance(value, str):
        return answer_text(value, field)
    messages = value if isinstance(value, list) else [value]
    if len(messages) != 1 or not isinstance(messages[0], Mapping):
        raise BadField(field, value, NO_ANSWER)
    (turn,), _ = turns_of(messages, field)
    if turn.role != "gpt":
        raise BadField(field, value, NO_ANSWER)
    return answer_text(turn.text, field)


def pair(
    turns: tuple[Turn, ...],
    pictures: tuple[Picture, ...],
    outputs: tuple[str, str],
    field: str,
    system: str,
    preference: int = 1,
    part: str = "",
) -> Pair:
    """A pair whose turns are as rows here have them; `field` holds the messages. Raises BadField."""
    turns = with_markers(with_system(turns, system, field), len(pictures), field)
    if not turns or turns[-1].role != "human":
        raise BadField(
            field, [turn.role for turn in turns], "the message before the answers must be a question"
        )
    return Pair(turns, pictures, outputs, preference, part)


def asked(question: Any, field: str) -> tuple[Turn, ...]:
    """A single question, which may be empty beside a picture. Raises BadField."""
    return (Turn("human", checked_text(question, field)),)


def parsed_text(value: Any, field: str) -> Mapping[str, Any]:
    """The object that a text holds as JSON. Raises BadField."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadField(field, value, f"must be a JSON object as a text ({error})") from None
    if not isinstance(value, Mapping):
        raise BadField(field, value, "must be a JSON object as a text")
    return value
