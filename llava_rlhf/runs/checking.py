"""The check before a launch: `launch` of scripts/common.sh runs a program once, alone, before it starts the processes.

Whoever checks is told in CHECK_FOR_PROCESSES how many there will be, and ends with `READY` where they may be started (0:
there is nothing to start; anything else: the program refused, and has said why). The processes are told in REFUSALS_DIR
that all this is done: they do not repeat what was printed, and what they refuse all the same (a file that changed since)
they write there, so that the script can say it after the launcher's trace. A script that goes on with what a program has made is told
by STATUS_OF_SUMMARY that it made nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

PROCESSES = "CHECK_FOR_PROCESSES"
REFUSALS = "REFUSALS_DIR"
SUMMARY = "STATUS_OF_SUMMARY"
READY = 10


def planned_processes() -> int | None:
    """How many processes will be started if this check passes; None in a process that is no check."""
    return int(os.environ[PROCESSES]) if os.environ.get(PROCESSES) else None


def processes_of_run() -> int:
    """Processes of the whole run: those that a check is for, else those that a launcher has started."""
    return planned_processes() or int(os.environ.get("WORLD_SIZE", 1))


def was_checked() -> bool:
    """Whether the check before the launch has printed what there is to know of the data."""
    return bool(os.environ.get(REFUSALS))


def end_after_summary() -> None:
    """End a program that had only to look at its data as the script that started it wants to be told, if one did."""
    if os.environ.get(SUMMARY):
        raise SystemExit(int(os.environ[SUMMARY]))


def refuse(error: Exception, status: int) -> NoReturn:
    """End with one message: on the error output, or where the script that launched this process shows it last."""
    text = f"error: {error}\n"
    if was_checked():
        place = Path(os.environ[REFUSALS]) / os.environ.get("RANK", "0")
        place.write_text(text, encoding="utf-8")
    else:
        sys.stderr.write(text)
    raise SystemExit(status)
