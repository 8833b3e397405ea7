"""What a file that holds no rows seems to be: objects around rows, tables by column, and text that is no JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# One row may hold lists of objects under these keys, in formats of others too; they are no lists of rows.
_WITHIN_A_ROW = frozenset(
    "conversations conversation messages dialogue dialog turns chat history prompt chosen rejected completion completions "
    "images videos captions tools objects output_1 output_2 responses candidates".split()
)
_OF_A_ROW = frozenset("image question answer text instruction query preference".split())
_COCO = frozenset({"images", "annotations"})


def is_coco(value: Any) -> bool:
    """Whether an object is an annotation file of COCO (captions or instances)."""
    return isinstance(value, Mapping) and value.keys() >= _COCO and isinstance(value["annotations"], list)


def object_hint(value: Any) -> str:
    """Where the rows of a file are that is one object, to be put behind an error; "" for an object that may be a row."""
    if not isinstance(value, Mapping) or not value:
        return ""
    if is_coco(value):
        return ": it is an annotation file of COCO"
    known = value.keys() & _WITHIN_A_ROW
    if not known and all(isinstance(item, Mapping) for item in value.values()):
        return ": its values are objects; write them as one list"
    lengths = {len(item) if isinstance(item, list) else 0 for item in value.values()}
    if not known and len(value) > 1 and len(lengths) == 1 and lengths != {0}:
        return ": it is a table by column; write one object a row"
    if known or value.keys() & _OF_A_ROW:
        return ""
    wrapped = [key for key, item in value.items() if _holds_rows(item)]
    return f": write the list under {wrapped[0]!r} alone, if that holds the rows" if wrapped else ""


def list_hint(value: Any) -> str:
    """What a list is that should be an object of captions, to be put behind an error; "" where nobody can tell."""
    row = value[0] if isinstance(value, list) and value else None
    if not isinstance(row, Mapping) or not any("caption" in key.lower() for key in row):
        return ""
    return (
        f": its rows have the fields {', '.join(sorted(row))}; join the captions of each image into one list"
    )


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def text_hint(text: str) -> str:
    """What a text that is no JSON seems to be, to be put behind an error; "" where nobody can tell."""
    start = text.lstrip()
    if start.startswith(("{'", "[{'", "['")):
        return "; it is written as Python prints it: write it with json.dump"
    first = start.split("\n", 1)[0]
    if "\0" in first[:100]:
        return "; it is binary, or UTF-16"
    if start.startswith(("{", "[", '"')):
        return ""
    if "," in first or "\t" in first:
        return f"; it begins like a table (CSV): {_shown(first)}"
    return f"; it begins with {_shown(first)}"


def _shown(line: str) -> str:
    return repr(line if len(line) <= 40 else line[:39] + "…")
