"""JSON files that hold one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LFS_POINTER = "version https://git-lfs"


def read_object(file: Path) -> dict[str, Any]:
    """The fields of a JSON object in a file of a model. Raises ValueError, saying what it holds instead.

    Configurations are read so: a configuration class fills what an original checkpoint lacks with sizes of another model.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if text.startswith(LFS_POINTER):
            raise ValueError("it is a git-LFS pointer; run `git lfs pull` in its folder")
        if text.lstrip("./").startswith("blobs/") and len(text.splitlines()) == 1:
            raise ValueError("it is a link of a download cache that was copied as text; download the model")
        fields = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds a {type(fields).__name__}, not a JSON object")
    return fields
