"""Fields that rows of several formats have, checked; what is wrong with one is a `BadField`, which readers make a problem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from data_utils.problems import is_unicode


class BadField(Exception):
    """What is wrong with one field of a row; `alike` names a fault that many rows may share, which is told once."""

    def __init__(self, field: str, value: Any, remedy: str, alike: str = ""):
        super().__init__(field, value, remedy)
        self.field, self.value, self.remedy, self.alike = field, value, remedy, alike


def checked_text(value: Any, field: str) -> str:
    """A string of valid Unicode. Raises BadField."""
    if not isinstance(value, str):
        raise BadField(field, value, "must be a string")
    if not is_unicode(value):
        raise BadField(field, value, "holds half a surrogate pair, not valid Unicode")
    return value


def caption_texts(value: Any, field: str) -> tuple[str, ...]:
    """A list of strings. Raises BadField."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadField(field, value, "must be a list of strings")
    return tuple(checked_text(item, field) for item in value)


def image_names(value: Any) -> tuple[str, ...]:
    """A file name, a list of them, or None for no image. Raises BadField."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise BadField("image", value, "must be a file name or a list of file names (absent: no image)")
    return tuple(checked_text(name, "image") for name in names)


def refuse_other_spellings(row: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise BadField for a key that is a known one but for capitals and separators: its value would not be read."""
    right = {_plain(name): name for name in known}
    for key, value in row.items():
        name = right.get(_plain(key))
        if name is not None and key not in known and value is not None and row.get(name) != value:
            raise BadField(key, value, f"is not read under this key: spell it {name}", f"key {key}")


def _plain(key: str) -> str:
    return "".join(filter(str.isalnum, key.lower()))
