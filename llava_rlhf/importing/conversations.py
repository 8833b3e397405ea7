"""Messages of other formats → turns with `<image>` markers, and turns → messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_utils.row_fields import BadField, checked_text
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.importing.outcomes import Picture

ROLES = {"user": "human", "human": "human", "assistant": "gpt", "gpt": "gpt", "system": "system"}
NO_ANSWER = "must be an answer: a text, or one message of the assistant"


def answer_text(value: Any, field: str) -> str:
    """An answer that is not empty. Raises BadField."""
    text = checked_text(value, field)
    if not text.strip():
        raise BadField(field, value, "the answer must not be empty")
    return text


def turns_of(messages: Any, field: str) -> tuple[tuple[Turn, ...], tuple[Picture, ...]]:
    """Messages → turns, and the pictures that stand within them. Raises BadField.

    A message is {"role", "content"} or {"from", "value"}; its content is a text or a list of parts.
    """
    if not isinstance(messages, list) or not messages:
        raise BadField(field, messages, "must be a list of messages that is not empty")
    turns: list[Turn] = []
    pictures: list[Picture] = []
    for index, message in enumerate(messages):
        where = f"{field}[{index}]"
        role, content, key = role_and_content(message, where)
        text, found = _content(content, f"{where}.{key}")
        if found and role != "human":
            raise BadField(f"{where}.{key}", content, "only a question may have pictures")
        turns.append(Turn(role, text))
        pictures += found
    return tuple(turns), tuple(pictures)


def role_and_content(message: Any, where: str) -> tuple[str, Any, str]:
    """(human, gpt or system, content, its key) of a message. Raises BadField."""
    if not isinstance(message, Mapping):
        raise BadField(where, message, 'must be a message: an object with "role" and "content"')
    role_key, key = ("role", "content") if "role" in message else ("from", "value")
    role = ROLES.get(message.get(role_key)) if isinstance(message.get(role_key), str) else None
    if role is None:
        known = ", ".join(ROLES)
        remedy = f"must be one of {known}: others, such as calls of tools, have no place in a row here"
        raise BadField(
            f"{where}.{role_key}", message.get(role_key), remedy, f"role {message.get(role_key)!r}"
        )
    return role, message.get(key), key


def _content(content: Any, where: str) -> tuple[str, list[Picture]]:
    """A text, or a list of parts → the text with markers, and the pictures that are in the parts themselves."""
    if isinstance(content, str):
        return checked_text(content, where), []
    if not isinstance(content, list):
        raise BadField(where, content, "must be a text, or a list of parts")
    text, pictures, after_marker = "", [], False  # behind a marker that begins a line
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            words = checked_text(part.get("text"), f"{place}.text")
            # Such a marker stands on a line of its own, as in our own files; `parts_of` takes the line feed away again.
            text += "\n" + words if after_marker and words and not words[0].isspace() else words
            after_marker = after_marker and not words
        elif kind in ("image", "image_url"):
            text += "\n" if after_marker else ""
            after_marker = begins_line(text)
            text += IMAGE_MARKER
            value = _picture_of_part(part)
            pictures += [] if value is None else [Picture(place, value)]
        else:
            raise BadField(place, part, 'must be a part of type "text" or "image"', f"part {kind!r}")
    return text, pictures


def _picture_of_part(part: Mapping[str, Any]) -> Any:
    """What a part says of its picture; None where the row has it elsewhere."""
    value = next(
        (part[key] for key in ("image", "image_url", "url", "path") if part.get(key) is not None), None
    )
    return value.get("url", value) if isinstance(value, Mapping) and "url" in value else value


def with_system(turns: Sequence[Turn], policy: str, field: str) -> tuple[Turn, ...]:
    """Turns without system messages. Raises BadField for one where `policy` is "refuse"."""
    for index, turn in enumerate(turns):
        if turn.role == "system" and policy == "refuse":
            remedy = "rows here have no system message: --system_messages drop leaves it out"
            raise BadField(f"{field}[{index}]", turn.text, remedy, "system message")
    return tuple(turn for turn in turns if turn.role != "system")


def with_markers(turns: Sequence[Turn], pictures: int, field: str) -> tuple[Turn, ...]:
    """Turns with one marker a picture: put before the first question where there is none at all. Raises BadField."""
    turns = tuple(turns)
    marked = sum(turn.text.count(IMAGE_MARKER) for turn in turns if turn.role == "human")
    if marked == pictures:
        return turns
    first = next((index for index, turn in enumerate(turns) if turn.role == "human"), None)
    if marked or first is None:
        value = f"{marked} marker(s) for {pictures} picture(s)"
        raise BadField(field, value, f"must have one {IMAGE_MARKER} for each picture, or none at all")
    text = f"{IMAGE_MARKER}\n" * pictures + turns[first].text
    return (*turns[:first], Turn("human", text), *turns[first + 1 :])


def begins_line(before: str) -> bool:
    """Whether a line begins behind this text."""
    return not before or before.endswith("\n")


def parts_of(text: str) -> list[dict[str, str]]:
    """A text with markers as parts, which `turns_of` reads; the line feed behind a marker on a line of its own goes."""
    before, *rest = text.split(IMAGE_MARKER)
    parts = [{"type": "text", "text": before}] if before else []
    for words in rest:
        parts.append({"type": "image"})
        bare = words.removeprefix("\n")
        alone, before = begins_line(before), words
        words = bare if alone and not bare[:1].isspace() else words
        parts += [{"type": "text", "text": words}] if words else []
    return parts
