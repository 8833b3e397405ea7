"""Whether a program can write where it was told to, and has room there; asked before hours of work, not after."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from llava_rlhf.runs.save_errors import readable_bytes

SMALL_FILES = 16 * 10**6  # bytes of tokenizer, configurations and cards beside weights, generously
_PROBE = 1 << 14  # bytes


def check_writable(flag: str, output: str | Path) -> Path:
    """The folder, there already, that `output` will be made in (or is).

    Raises:
        ValueError: no file can be made or written there: no directory, no permission, a full disk. Names `flag`.
    """
    output = Path(output)
    parent = next(path for path in (output.absolute(), *output.absolute().parents) if os.path.lexists(path))
    if not parent.is_dir():
        raise ValueError(f"{flag} {output} can't be made: {parent} is no directory")
    try:
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{flag} {output} can't be made: {parent} can't be written to ({error}); make room there, or name another place"
        ) from error
    return parent


def check_output(output: Path, weight_bytes: int, flag: str = "--output") -> None:
    """Raise ValueError unless `output` is new and its files, with `weight_bytes` of weights, can be written there.

    The message names `flag`.
    """
    if os.path.lexists(output):
        broken = " (a symbolic link to nothing)" if output.is_symlink() and not output.exists() else ""
        raise ValueError(f"{flag} {output} exists already{broken}; choose another output directory")
    parent = check_writable(flag, output)
    needed, free = weight_bytes + SMALL_FILES, shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(
            f"{flag} {output} needs {readable_bytes(needed)}, {parent} has {readable_bytes(free)} left"
        )
