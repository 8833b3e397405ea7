"""Headers of safetensors files: names, number formats and shapes, and whether the file is whole. Reads no values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from models.json_objects import LFS_POINTER

_LENGTH = 8  # bytes that say how long the header is
_LONGEST = 100_000_000  # what the format allows
FLOATING = ("F16", "BF16", "F32", "F64")  # in the words of safetensors


@dataclass(frozen=True)
class StoredShape:
    """One tensor of a file: number format (in the words of safetensors) and shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, StoredShape]:
    """Name → `StoredShape` of every tensor of a file.

    Raises:
        ValueError: no such file, a git-LFS pointer, a file that is cut off, or no safetensors file.
    """
    # One phrase for whatever is no whole file, then its cause.
    start = f"{file} is missing, cut off or no safetensors file"
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            first = opened.read(_LENGTH)
            length = int.from_bytes(first, "little")
            if (first + opened.read(len(LFS_POINTER))).startswith(LFS_POINTER.encode()):
                raise ValueError(f"{start} (a git-LFS pointer; run `git lfs pull` in its folder)")
            if len(first) < _LENGTH:
                raise ValueError(f"{start} (it has {size} bytes); copy it again")
            if length > _LONGEST:
                raise ValueError(f"{start} (no safetensors header at its start)")
            opened.seek(_LENGTH)
            content = opened.read(length)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"{start} ({reason}); download or copy it again") from error
    if len(content) < length:
        raise ValueError(f"{start} (its header of {length} bytes ends at byte {size}); copy it again")
    try:
        entries = json.loads(content)
        entries.pop("__metadata__", None)
        found = {name: StoredShape(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{start} (no safetensors header at its start)") from error
    whole = _LENGTH + length + end
    if size != whole:
        raise ValueError(f"{start} (it has {size} of {whole} bytes); copy it again")
    return found
