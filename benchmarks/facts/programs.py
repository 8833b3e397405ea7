"""Programs of the repository, each in a child process that has all imports already, with its log beside what it wrote."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llava_rlhf.memory_planning.launch_lines import launch_lines

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "tiny"


def run_script(name: str, variables: Mapping[str, str], extra: Sequence[str], log: Path) -> float:
    """The training program that `scripts/tiny/NAME.sh` starts; CPU seconds of it, without imports. Raises RuntimeError."""
    (line,) = launch_lines(SCRIPTS / f"{name}.sh", extra, variables)
    return run_program(line.program, line.arguments, log)


def run_program(name: str, argv: Sequence[str], log: Path) -> float:
    """`llava_rlhf.NAME` with these arguments; CPU seconds of it, without imports. Raises RuntimeError where it fails."""
    module = importlib.import_module(f"llava_rlhf.{name}")
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_and_leave(module, argv, log)
    _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{name} failed: {log}")
    return used.ru_utime + used.ru_stime


def _run_and_leave(module: Any, argv: Sequence[str], log: Path) -> None:
    """In a child process, which ends here."""
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    try:
        module.run(module.prepare(list(argv)))
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
