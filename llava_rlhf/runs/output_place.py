"""Whether a program can write where it was told to; asked before hours of work, not after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
