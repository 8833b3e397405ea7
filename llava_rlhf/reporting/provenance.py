"""Where the numbers of a page come from: seed, date, the command of the run, its settings, and its files as links."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llava_rlhf.reporting.run_data import RunData, last_written
from llava_rlhf.runs.run_record import ARGUMENTS_FILE, ENVIRONMENT, GLOBAL_BATCH, INPUTS, PROCESSES
from llava_rlhf.runs.training_flags import TrainingFlags

TRAINER = "LlavaTrainingArguments"
NOT_FLAGS = (INPUTS, ENVIRONMENT, GLOBAL_BATCH, PROCESSES)
# Files and folders of a run that a reader may want, and what they are.
WANTED = {
    ARGUMENTS_FILE: "settings",
    "metrics.jsonl": "metrics",
    "rollouts": "rollouts",
    "lora_policy": "policy",
    "lora_value": "value",
    "lora_reward": "reward model",
}
UNSET = (None, "None", "[]", [])


@dataclass(frozen=True)
class Link:
    """A file beside the page; `address` is relative to it, so that the folder can be moved whole."""

    text: str
    address: str


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one run come from.

    Attributes:
        name: of the run, as the page calls it.
        seed, last_step: None where they are not recorded.
        date: when the run last wrote its metrics.
        command: as of `command`.
        links: its files.
    """

    name: str
    seed: int | None
    date: str | None
    last_step: int | None
    command: Sequence[str]
    links: Sequence[Link]


def origin(run: RunData, name: str, page: Path, beside: Sequence[Link] = ()) -> Origin:
    """Seed, date, last step, command and links of a run; those `beside` it come first."""
    last_step = max([*run.values, *(line["step"] for line in run.metrics)], default=None)
    date, made_by = last_written(run.folder), command(run.arguments)
    return Origin(name, seed(run.arguments), date, last_step, made_by, [*beside, *links(run.folder, page)])


def links(folder: Path, page: Path) -> list[Link]:
    """What there is of WANTED in a run folder, as links of a page."""
    return [link_to(folder / name, page, text) for name, text in WANTED.items() if (folder / name).exists()]


def link_to(target: Path, page: Path, text: str) -> Link:
    """A link of `page` to another file."""
    relative = os.path.relpath(target.resolve(), page.resolve().parent)
    return Link(text, quote(f"./{relative}"))


def seed(arguments: Mapping[str, Any]) -> int | None:
    """The seed of a run, where its record has one."""
    found = (group["seed"] for group in arguments.values() if isinstance(group, dict) and "seed" in group)
    return next(found, None)


def command(arguments: Mapping[str, Any]) -> list[str]:
    """The command that starts a run with these settings, a flag a line; empty where the record does not say.

    Every setting is written out, also those left at their defaults, which another version may change; of the many flags
    of `transformers.TrainingArguments` only those that `--help` shows.
    """
    program = _program(arguments)
    if program is None:
        return []
    processes = arguments.get(PROCESSES, 1)
    start = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    flags = [
        f"--{name} {shlex.join(map(str, value if isinstance(value, list) else [value]))}"
        for group, settings in arguments.items()
        if group not in NOT_FLAGS and isinstance(settings, dict)
        for name, value in _given(group, settings)
    ]
    return [f"{start} -m llava_rlhf.{program}", *flags]


def differing_settings(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(name, its value in each run) of every recorded setting that is not the same in all; `–` where it is not recorded."""
    flat = [dict(_flatten(arguments)) for arguments in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    table = [(name, [str(settings.get(name, "–")) for settings in flat]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def _program(arguments: Mapping[str, Any]) -> str | None:
    if "PPOArguments" in arguments:
        return "train_rl_model"
    if TRAINER in arguments:
        return "train_reward_model" if "FactArguments" in arguments else "initialize_policy_model"
    return None


def _given(group: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    shown = {item.name for item in fields(TrainingFlags)} if group == TRAINER else settings
    for name, value in settings.items():
        if name in shown and value not in UNSET:
            yield name, value


def _flatten(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for group, settings in arguments.items():
        if isinstance(settings, dict):
            yield from ((f"{group}.{name}", value) for name, value in settings.items())
        else:
            yield group, settings
