"""A command with other settings, to be pasted: the script with variables before it, or the program with its flags."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_rlhf.memory_planning.names import PROGRAMS

SETTABLE = re.compile(r"\$\{(\w+):-")
PASSED = re.compile(r'--(\w+) "\$(\w+)"')


def command(what: str, flags: Sequence[str], changes: Mapping[str, Any], processes: int | None) -> str:
    """The command for `what` (a script or a program) that was asked with `flags`, with `changes` of flags.

    `processes`: how many, where that is not left to the script; None: it is.
    """
    given = {name: str(value) for name, value in changes.items() if value is not None}
    kept = _without(flags, changes)
    if what in PROGRAMS:
        launcher = ["torchrun", "--nproc-per-node", str(processes)] if (processes or 1) > 1 else ["python"]
        return shlex.join([*launcher, "-m", f"llava_rlhf.{what}", *kept, *_as_flags(given)])
    lines = Path(what).read_text(encoding="utf-8").splitlines()
    settable = set(SETTABLE.findall("\n".join(line for line in lines if not line.startswith("#"))))
    variables = {name: os.environ[name] for name in sorted(settable & os.environ.keys())}
    if processes is not None and "NUM_GPUS" in settable:
        variables["NUM_GPUS"] = str(processes)
    names = _names_of_flags(Path(what))
    for flag in [flag for flag in given if names.get(flag) in settable]:
        variables[names[flag]] = given.pop(flag)
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " ".join([*words, shlex.join(["bash", what, *kept, *_as_flags(given)])])


def _names_of_flags(script: Path) -> dict[str, str]:
    """The variable that a script's launch part makes a flag of."""
    launch = script.resolve().parent.parent / "launch" / "training.sh"
    return dict(PASSED.findall(launch.read_text(encoding="utf-8"))) if launch.is_file() else {}


def _as_flags(given: Mapping[str, str]) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def _without(flags: Sequence[str], names: Mapping[str, Any]) -> list[str]:
    """Words of a command line without these flags and their values."""
    kept, dropping = [], False
    for word in flags:
        if word.startswith("--"):
            dropping = word[2:].split("=", 1)[0] in names
        if not dropping:
            kept.append(word)
    return kept
