"""What one row of a data file means, and what is wrong with it when it means nothing.

Left out on purpose: images are not opened here (`images.py`), captions are not looked up (`facts.py`) and nothing is
tokenised; a record is the JSON row with its types checked. The schema is open: keys it does not know are kept in `extra`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

from data_utils.caption_maps import read_captions as read_captions  # all readers are imported from here
from data_utils.fact_lists import NO_FACTS, FactList, fact_list
from data_utils.foreign_rows import DIALOGUE, PREFERENCE, PROMPT, RowKind, refuse_other_format
from data_utils.json_files import BadLine, read_rows, repeated_key
from data_utils.pictures_elsewhere import refuse_no_name, refuse_pictures_elsewhere
from data_utils.problems import Problem, shorten, unreadable
from data_utils.row_fields import (
    BadField,
    caption_texts,
    checked_text,
    image_names,
    refuse_other_spellings,
)

IMAGE_MARKER = "<image>"
ROWS = "a readable JSON list of rows, or JSON Lines (one row a line), in UTF-8, gzip or not"


class AnswerType(IntEnum):
    """What a checkable answer looks like; the published files call it `caption_type`."""

    GENERAL = 1
    A_IN_ABCD = 2
    B_IN_ABCD = 3
    C_IN_ABCD = 4
    D_IN_ABCD = 5
    NO_IN_YESNO = 6
    YES_IN_YESNO = 7


@dataclass(frozen=True)
class Turn:
    """One message: `role` is "human" or "gpt", `text` is verbatim (image markers included)."""

    role: str
    text: str


@dataclass(frozen=True)
class Record:
    """One row: where it stands, its images (paths relative to the image folder), its messages and what is known of it."""

    file: str
    row: int
    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    captions: tuple[str, ...] | None
    extra: Mapping[str, Any]
    facts: FactList = field(default=NO_FACTS, kw_only=True)


@dataclass(frozen=True)
class DialogueRecord(Record):
    """Supervised fine-tuning: human and gpt alternate, the last turn is gpt."""


@dataclass(frozen=True)
class PreferenceRecord(Record):
    """A preference pair: `turns` end with the last question, `preference` (1 or 2) names the better output."""

    outputs: tuple[str, str]
    preference: int


@dataclass(frozen=True)
class PromptRecord(Record):
    """A PPO prompt: `turns` holds the first human message only."""

    answer_type: AnswerType
    length_bonus: float


RecordT = TypeVar("RecordT", bound=Record)


def read_dialogues(path: str | Path) -> tuple[list[DialogueRecord], list[Problem]]:
    """Read supervised dialogues; a row with a problem gives no record."""
    return _read_rows(path, _parse_dialogue, DIALOGUE)


def read_preferences(path: str | Path) -> tuple[list[PreferenceRecord], list[Problem]]:
    """Read preference pairs; the last gpt message, which each output replaces, is cut off."""
    return _read_rows(path, _parse_preference, PREFERENCE)


def read_prompts(path: str | Path) -> tuple[list[PromptRecord], list[Problem]]:
    """Read PPO prompts; messages after the first human one are ignored."""
    return _read_rows(path, _parse_prompt, PROMPT)


def preference_of(value: Any, path: str | Path, row: int) -> PreferenceRecord:
    """One preference pair out of row `row` of a file, as `read_preferences` reads it. Raises BadField."""
    return _checked(value, _parse_preference, PREFERENCE, path, row)


def prompt_of(value: Any, path: str | Path, row: int) -> PromptRecord:
    """One PPO prompt out of row `row` of a file, as `read_prompts` reads it. Raises BadField."""
    return _checked(value, _parse_prompt, PROMPT, path, row)


def refuse_no_row(value: Any) -> tuple[str, Any, str] | None:
    """(field, value, remedy) of a value that is no row at all, whatever rows should hold; None for a JSON object."""
    if isinstance(value, BadLine):
        return f"line {value.number}", value.text, f"{value.reason}; write one JSON object a line"
    if not isinstance(value, dict):
        return "row", value, "must be a JSON object"
    key = repeated_key(value)
    return None if key is None else (key, value, "this key stands there more than once; keep one")


def _read_rows(
    path: str | Path, parse: Callable[[dict, dict], RecordT], kind: RowKind
) -> tuple[list[RecordT], list[Problem]]:
    try:
        rows = read_rows(path)
    except ValueError as error:
        return [], [unreadable(path, error, ROWS)]
    records: list[RecordT] = []
    problems: list[Problem] = []
    for row, value in enumerate(rows):
        try:
            records.append(_checked(value, parse, kind, path, row))
        except BadField as bad:
            problems.append(bad_row(path, row, bad))
    return records, problems


def _checked(
    value: Any, parse: Callable[[dict, dict], RecordT], kind: RowKind, path: str | Path, row: int
) -> RecordT:
    if (wrong := refuse_no_row(value)) is not None:
        raise BadField(*wrong)
    refuse_other_format(value, kind)
    refuse_unread_fields(value, kind)
    return parse(value, {"file": str(path), "row": row})


def refuse_unread_fields(row: Mapping[str, Any], kind: RowKind) -> None:
    """Raise BadField for what a row says in a place where nobody reads it: a picture, or a field under another spelling."""
    refuse_pictures_elsewhere(row)
    refuse_other_spellings(row, kind.known)
    refuse_no_name(row.get("image"))


def bad_row(path: str | Path, row: int, bad: BadField) -> Problem:
    """The problem of a row with a bad field."""
    return Problem(str(path), row, bad.field, shorten(bad.value), bad.remedy, bad.alike)


def _parse_dialogue(row: dict, place: dict) -> DialogueRecord:
    turns = _alternating(_messages(row))
    _check_answers(turns)
    return DialogueRecord(**place, **_common(row, turns, {"conversations"}))


def _parse_preference(row: dict, place: dict) -> PreferenceRecord:
    turns = _messages(row)
    if turns[-1].role == "human":  # the last answer is a placeholder, which not every tool writes
        turns = (*turns, Turn("gpt", ""))
    turns = _alternating(turns)[:-1]
    _check_answers(turns)
    preference = row.get("preference")
    if type(preference) is not int or preference not in (1, 2):
        raise BadField("preference", preference, "must be 1 or 2")
    outputs = (_output(row, "output_1"), _output(row, "output_2"))
    known = {"conversations", "output_1", "output_2", "preference"}
    return PreferenceRecord(**place, **_common(row, turns, known), outputs=outputs, preference=preference)


def _parse_prompt(row: dict, place: dict) -> PromptRecord:
    human = [turn for turn in _messages(row) if turn.role == "human"]
    if not human:
        raise BadField("conversations", row["conversations"], "needs a human message")
    kind = row.get("caption_type", 1)
    if type(kind) is not int or kind not in set(AnswerType):
        raise BadField("caption_type", kind, "must be an integer from 1 to 7 (absent means 1)")
    other = row.get("answer_type")
    if other is not None and other not in (kind, AnswerType(kind).name):
        remedy = "is read in answers files only: a prompt says it in caption_type"
        raise BadField("answer_type", other, remedy, "key answer_type")
    bonus = row.get("length_bonus", 1.0)
    if isinstance(bonus, bool) or not isinstance(bonus, (int, float)) or not abs(bonus) <= 1e30:
        raise BadField("length_bonus", bonus, "must be a finite number of at most 1e30 (absent means 1.0)")
    common = _common(row, (human[0],), {"conversations", "caption_type", "length_bonus"})
    return PromptRecord(**place, **common, answer_type=AnswerType(kind), length_bonus=float(bonus))


def _messages(row: dict) -> tuple[Turn, ...]:
    messages = row.get("conversations")
    if not isinstance(messages, list) or not messages:
        remedy = 'must be a non-empty list of {"from", "value"} messages'
        if "conversations" not in row:
            remedy += f"; the fields of this row: {shorten(sorted(row))}"
        raise BadField("conversations", messages, remedy, "no conversations" if messages is None else "")
    turns = []
    for index, message in enumerate(messages):
        where = f"conversations[{index}]"
        if not isinstance(message, dict):
            raise BadField(where, message, 'must be an object {"from", "value"}')
        if message.get("from") not in ("human", "gpt"):
            role = message.get("from")
            raise BadField(f"{where}.from", role, 'must be "human" or "gpt"', f"role {role!r}")
        turns.append(Turn(message["from"], checked_text(message.get("value"), f"{where}.value")))
    return tuple(turns)


def _alternating(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    # Published dialogues may open with a gpt message; the reference drops it, and so do we.
    turns = turns[1:] if turns[0].role == "gpt" else turns
    roles = [turn.role for turn in turns]
    if "human" not in roles:
        raise BadField("conversations", roles, "needs a human message before a gpt message")
    if "gpt" not in roles:
        raise BadField("conversations", roles, "needs a gpt message")
    if len(roles) % 2 or roles != ["human", "gpt"] * (len(roles) // 2):
        raise BadField("conversations", roles, "human and gpt must alternate and gpt must come last")
    return turns


def _check_answers(turns: tuple[Turn, ...]) -> None:
    for index, turn in enumerate(turns):
        if turn.role == "gpt" and not turn.text.strip():
            raise BadField(f"conversations[{index}].value", turn.text, "a gpt message must not be empty")


def _output(row: dict, field: str) -> str:
    output = row.get(field)
    if not isinstance(output, dict):
        raise BadField(field, output, 'must be an object {"from", "value"}')
    text = checked_text(output.get("value"), f"{field}.value")
    if not text.strip():
        raise BadField(f"{field}.value", text, "the response must not be empty")
    return text


def _common(row: dict, turns: tuple[Turn, ...], known: set[str]) -> dict[str, Any]:
    name = row.get("id", "")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise BadField("id", name, "must be a string or an integer")
    if isinstance(name, str):
        checked_text(name, "id")
    images = image_names(row.get("image"))
    _check_markers(turns, images)
    captions = None if row.get("captions") is None else caption_texts(row["captions"], "captions")
    facts = NO_FACTS if row.get("facts") is None else fact_list(row["facts"], "facts")
    extra = {
        key: value for key, value in row.items() if key not in known | {"id", "image", "captions", "facts"}
    }
    common = {"images": images, "turns": turns, "captions": captions, "facts": facts, "extra": extra}
    return {"id": str(name), **common}


def _check_markers(turns: tuple[Turn, ...], images: tuple[str, ...]) -> None:
    counts = [turn.text.count(IMAGE_MARKER) if turn.role == "human" else 0 for turn in turns]
    if sum(counts) != len(images) and (len(images), sum(counts)) != (1, 0):
        value = f"{sum(counts)} marker(s) for {len(images)} image(s)"
        raise BadField(
            "conversations", value, f"human messages need one {IMAGE_MARKER} marker for each image"
        )
    for index, turn in enumerate(turns):
        image_only = counts[index] or (index == 0 and images)
        if turn.role == "human" and not image_only and not turn.text.strip():
            raise BadField(
                f"conversations[{index}].value", turn.text, "a question without image needs a text"
            )
