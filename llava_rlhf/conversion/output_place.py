"""Where a conversion may write: a new folder, in a place that can be written to, on a disk with room for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from llava_rlhf.runs.output_place import check_writable
from llava_rlhf.runs.save_errors import readable_bytes

SMALL_FILES = 16 * 10**6  # tokenizer, configurations and cards, generously


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
