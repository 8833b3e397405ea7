"""The record of a run: its settings, what it reads, and the software; written to the run folder and every checkpoint."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_rlhf.hub.flags import places_of
from models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from models.base_fingerprint import base_fingerprint

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "datasets")
INPUTS, ENVIRONMENT, PROCESSES, GLOBAL_BATCH = "inputs", "environment", "processes", "global_batch_size"
LOWERED = "lowered_to_fit_the_data"  # batch sizes, by their flags; absent where none was
HUB = "hub"  # flag → repository and commit, of what was downloaded
ARGUMENTS_FILE = "arguments.json"
FINISHED = "finished.json"  # the last file of a run


def run_record(
    settings: Iterable[Any], inputs: Mapping[str, str | None], processes: int, global_batch: int
) -> dict[str, Any]:
    """Everything by which two runs are compared, as plain JSON values.

    Args:
        settings: the argument objects; each becomes a dictionary under the name of its class.
        inputs: flag → what its file or folder holds, from `file_identity`, `base_identity` or `adapter_identity`.
        processes: of the whole run.
        global_batch: rows of an optimizer step over all processes.
    """
    record: dict[str, Any] = {type(item).__name__: _plain(item) for item in settings}
    downloaded = [places_of(group) for group in record.values()]
    record |= {
        HUB: {f"--{name}": place for places in downloaded for name, place in places.items()},
        INPUTS: dict(inputs),
        ENVIRONMENT: environment(),
        PROCESSES: processes,
        GLOBAL_BATCH: global_batch,
    }
    return json.loads(record_text(record))  # as it will be read back


def with_defaults(record: Mapping[str, Any], settings: Iterable[Any]) -> dict[str, Any]:
    """A record of an earlier version, with what it lacks at its default: without a choice, that is what was done.

    Args:
        record: as it was read.
        settings: the argument objects of now. Those of transformers, whose defaults change with its version, add nothing.
    """
    completed = dict(record)
    for item in settings:
        if hasattr(item, "_argument_group_name") and not hasattr(item, "to_sanitized_dict"):
            name = type(item).__name__
            completed[name] = {**_defaults(item), **record.get(name, {})}
    return completed


def recorded_places(flags: Mapping[str, Any]) -> dict[str, str]:
    """Flag → repository and commit, of the run that these flags continue; empty where they start one.

    Args:
        flags: of a command line, by name. What is wrong with `--resume` is said by whoever continues the run.
    """
    output_dir, resume = flags.get("output_dir"), flags.get("resume", "no")
    if not output_dir or resume == "no":
        return {}
    run = Path(output_dir if resume == "auto" else resume)
    if resume == "auto" and not any(run.glob("checkpoint-*")) and not (run / FINISHED).is_file():
        return {}
    try:
        places = json.loads((run / ARGUMENTS_FILE).read_text(encoding="utf-8")).get(HUB, {})
    except (OSError, ValueError):
        return {}
    return {flag.removeprefix("--"): place for flag, place in places.items()}


def record_text(record: Mapping[str, Any]) -> str:
    """The content of `arguments.json`."""
    return json.dumps(record, indent=2, sort_keys=True, default=str) + "\n"


def file_identity(path: str | Path | None) -> str | None:
    """Size and SHA-256 of a file; None for None."""
    if path is None:
        return None
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return f"{Path(path).stat().st_size} bytes, sha256 {digest.hexdigest()}"


def base_identity(directory: str | Path) -> str:
    """Which weights a base has (`models.base_fingerprint`). Raises ValueError when it is none."""
    return f"weights {base_fingerprint(directory)}"


def adapter_identity(folder: str | Path) -> str:
    """Configuration and weights of a PEFT folder."""
    return "; ".join(str(file_identity(Path(folder) / name)) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))


def environment() -> dict[str, str | None]:
    """Git commit (None outside a checkout), Python and package versions."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    versions["git_commit"] = git.stdout.strip() or None
    return versions


def _plain(item: Any) -> dict[str, Any]:
    if hasattr(item, "to_sanitized_dict"):  # transformers.TrainingArguments: leaves tokens out
        return item.to_sanitized_dict()
    return {
        key: value.value if isinstance(value, enum.Enum) else value
        for key, value in dataclasses.asdict(item).items()
    }


def _defaults(item: Any) -> dict[str, Any]:
    defaults = {}
    for one in dataclasses.fields(item):
        if one.default is not dataclasses.MISSING:
            defaults[one.name] = one.default.value if isinstance(one.default, enum.Enum) else one.default
        elif one.default_factory is not dataclasses.MISSING:
            defaults[one.name] = one.default_factory()
    return defaults
