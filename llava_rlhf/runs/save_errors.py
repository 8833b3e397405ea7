"""A file system that refuses to write: one message that says what, where, how much is needed and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # the file system takes nothing more
TORCH_WRITER = "PytorchStreamWriter"  # how torch.save, which DeepSpeed uses, names itself when a write fails


class SaveError(OSError):
    """Something could not be written. The run stops: it must not go on for days without being able to save."""


@contextmanager
def explaining_failures(what: str, path: Path, hint: str = "") -> Iterator[None]:
    """Turn an error of the file system inside the block into a `SaveError` about `what`, which was to become `path`."""
    try:
        yield
    except SaveError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        raise SaveError(_message(what, path, error, hint)) from error


@contextmanager
def explaining_full_disks(path: Path) -> Iterator[None]:
    """Turn an error inside the block that says a file system is full into a `SaveError` about `path`.

    For blocks that read and compute too, where other errors of the file system mean something else.
    """
    try:
        yield
    except SaveError:
        raise
    except (
        Exception
    ) as error:  # libraries written in Rust have their own classes, and the number in their words
        full = getattr(error, "errno", None) in NO_MORE
        if not full and not any(f"(os error {number})" in str(error) for number in NO_MORE):
            raise
        raise SaveError(_message(path.name, path, error, "")) from error


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder; 0 when it is gone."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def readable_bytes(count: int) -> str:
    """1234567 → `1.2 MB`."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _message(what: str, path: Path, error: BaseException, hint: str) -> str:
    reason = str(error).splitlines()[0]
    return (
        f"{what} could not be written to {path}: {reason}. {_free_space(path)}{hint} "
        "Make room, or make the folder writable, and start the same command again."
    )


def _free_space(path: Path) -> str:
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return f"The file system has {readable_bytes(shutil.disk_usage(place).free)} free."
