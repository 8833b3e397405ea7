"""The record formats written down a second time, as plain conditions: what a reader accepts is compared with them."""

from __future__ import annotations

from typing import Any


def is_text(value: Any) -> bool:
    """A string of valid Unicode."""
    return isinstance(value, str) and not any(0xD800 <= ord(letter) < 0xE000 for letter in value)


def is_whole(value: Any) -> bool:
    """An integer, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def are_texts(value: Any) -> bool:
    """A list of such strings."""
    return isinstance(value, list) and all(map(is_text, value))


def image_names(row: dict) -> list | None:
    """The images of a row, None where `image` is no such thing."""
    value = row.get("image")
    names = [] if value is None else [value] if isinstance(value, str) else value
    return names if are_texts(names) and all(name.strip() for name in names) else None


def is_of_the_format(kind: str, row: Any) -> bool:
    """Whether a row is of the format; files of images are not looked at."""
    if (
        not isinstance(row, dict)
        or image_names(row) is None
        or not isinstance(row.get("conversations"), list)
    ):
        return False
    messages = row["conversations"]
    if not messages or not all(isinstance(m, dict) and m.get("from") in ("human", "gpt") for m in messages):
        return False
    if not all(is_text(m.get("value")) for m in messages):
        return False
    identity = row.get("id", "")
    if not (is_text(identity) or is_whole(identity)) or not (
        row.get("captions") is None or are_texts(row["captions"])
    ):
        return False
    roles = [m["from"] for m in messages]
    if kind == "ppo":
        asked = [m for m in messages if m["from"] == "human"][:1]
        bonus = row.get("length_bonus", 1)
        numbers = isinstance(bonus, (int, float)) and not isinstance(bonus, bool) and -1e30 <= bonus <= 1e30
        kinds = is_whole(row.get("caption_type", 1)) and 1 <= row.get("caption_type", 1) <= 7
        if not asked or not numbers or not kinds:
            return False
    else:
        asked = messages[roles[0] == "gpt" :]
        if kind == "reward" and roles[-1] == "human":  # its answer would be cut off anyway
            asked = [*asked, {"from": "gpt", "value": ""}]
        if len(asked) < 2 or [m["from"] for m in asked] != ["human", "gpt"] * (len(asked) // 2):
            return False
        if kind == "reward":
            asked = asked[:-1]
            outputs = [row.get("output_1"), row.get("output_2")]
            if not all(
                isinstance(o, dict) and is_text(o.get("value")) and o["value"].strip() for o in outputs
            ):
                return False
            if not is_whole(row.get("preference")) or row["preference"] not in (1, 2):
                return False
        if not all(m["value"].strip() for m in asked if m["from"] == "gpt"):
            return False
    return questions_fit(asked, len(image_names(row)))


def questions_fit(asked: list[dict], images: int) -> bool:
    """As many markers as images (none will do for one image), and no question without image and text."""
    markers = [m["value"].count("<image>") for m in asked if m["from"] == "human"]
    if sum(markers) != images and (sum(markers), images) != (0, 1):
        return False
    silent = [i for i, m in enumerate(asked) if m["from"] == "human" and not m["value"].strip()]
    return all(index == 0 and images for index in silent)
