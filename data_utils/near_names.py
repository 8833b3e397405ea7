"""What an image folder has instead of a name that it lacks: the same in other letters, another place or another ending."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

SEARCHED = 5000  # entries of a folder; of larger ones only likely names are tried
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


def near_name(folder: str | Path, name: str) -> str | None:
    """Why `folder/name` is not there, as the name that is, and what differs; None where nothing is like it."""
    if "\\" in name:
        slashes = name.replace("\\", "/")
        if _is_file(folder, slashes) or _is_file(
            folder, slashes := _same_letters(folder, slashes) or slashes
        ):
            return f"the folder has {slashes!r}: write / instead of \\"
        return "write / instead of \\ between folders"
    found = _same_letters(folder, name)
    if found is not None and _composed(found) == _composed(name):
        form = "NFD" if unicodedata.is_normalized("NFD", found) else "NFC"
        return (
            f"the folder has the same name in another Unicode form ({form}): rename the file, or write the name as the "
            f"folder has it ({found!a})"
        )
    if found is not None:
        return f"the folder has {found!r}, in other capitals"
    for other in _likely(folder, name):
        if _is_file(folder, other):
            return f"the folder has {other!r}"
    return None


def _same_letters(folder: str | Path, name: str) -> str | None:
    """The path of a file that differs from `name` in Unicode form and capitals only."""
    there = Path(folder)
    for part in Path(name).parts:
        if not os.path.lexists(there / part):
            match = _entry_like(there, part)
            if match is None:
                return None
            part = match
        there = there / part
    return there.relative_to(folder).as_posix() if there.is_file() else None


def _entry_like(folder: Path, name: str) -> str | None:
    for form in ("NFC", "NFD"):
        if os.path.lexists(folder / unicodedata.normalize(form, name)):
            return unicodedata.normalize(form, name)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, SEARCHED)]
    except OSError:
        return None
    plain = _composed(name).casefold()
    return next((other for other in sorted(names) if _composed(other).casefold() == plain), None)


def _likely(folder: str | Path, name: str) -> Iterator[str]:
    """Names that people mean: without the folder in front, with another ending, with or without COCO's prefix."""
    path = Path(name)
    yield from ("/".join(path.parts[start:]) for start in range(1, len(path.parts)))
    for ending in _ENDINGS:
        yield path.with_suffix(ending).as_posix() if path.suffix else f"{name}{ending}"
    bare = re.sub(r"^COCO_(?:train|val|test)\d+_", "", path.name)
    for prefix in ("", "COCO_train2014_", "COCO_val2014_"):
        yield (path.parent / f"{prefix}{bare}").as_posix()
    yield f"{Path(folder).name}/{name}"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_file(folder: str | Path, name: str) -> bool:
    try:
        return Path(folder, name).is_file()
    except (OSError, ValueError):
        return False
