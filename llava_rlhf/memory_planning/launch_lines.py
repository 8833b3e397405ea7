"""What a script would start: its launch lines, read without launching anything."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from llava_rlhf.memory_planning.names import PROGRAMS


@dataclass(frozen=True)
class LaunchLine:
    """One start of a training program: its name, its arguments, and the processes of all nodes."""

    program: str
    arguments: tuple[str, ...]
    processes: int


def launch_lines(
    script: str | Path, extra: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> list[LaunchLine]:
    """The training programs that a script starts when it is given `extra` arguments, in order.

    `variables` stand in its environment besides those of this process.

    Raises ValueError when it is no script, fails, or starts none of them.
    """
    if not Path(script).is_file():
        raise ValueError(f"{script} is no file; name a script or one of {', '.join(PROGRAMS)}")
    # Another script would not only print what it starts.
    calls = rf"^(launch|{'|'.join(PROGRAMS)}) "
    if not re.search(calls, Path(script).read_text(encoding="utf-8"), re.MULTILINE):
        raise ValueError(
            f"{script} does not start one of {', '.join(PROGRAMS)}, so it can't be planned: name the script of one of these, "
            "or the program itself (evaluation: docs/one_24gb_card.md)"
        )
    environment = {"PYTHON": sys.executable, **os.environ, **(variables or {})}
    environment |= {"DRY_RUN": "1", "LAUNCHER": "torchrun"}
    done = subprocess.run(
        ["bash", str(script), *extra], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise ValueError(f"{script} failed:\n{done.stderr.strip()}")
    found = [line for text in done.stdout.splitlines() if (line := _read(shlex.split(text))) is not None]
    if not found:
        raise ValueError(f"{script} printed no launch line of {', '.join(PROGRAMS)} with DRY_RUN=1")
    return found


def _read(words: list[str]) -> LaunchLine | None:
    at = max((place for place, word in enumerate(words[:-1]) if word == "-m"), default=None)
    program = words[at + 1].removeprefix("llava_rlhf.") if at is not None else None
    if program not in PROGRAMS:
        return None
    counts = ("--nnodes", "--nproc-per-node")
    processes = prod(int(after) for word, after in pairwise(words[:at]) if word in counts)
    return LaunchLine(program, tuple(words[at + 2 :]), processes)
