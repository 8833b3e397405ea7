"""Files and folders that a command line names and that are not there: all of them in one message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_rlhf.hub.places import hub_place
from models.base_place import local_hint

_FILES = (
    "dataset_path",
    "image_to_caption_file",
    "image_to_facts_file",
    "fact_synonyms",
    "reward_prompt_file",
    "deepspeed",
)
_FOLDERS = ("image_folder",)
# Read from the Hub, too: only what can't be the id of a model there is a folder for certain.
_MODELS = (
    *("model_name_or_path", "base_model_name", "reward_base_model_name"),
    *("policy_model_name_or_path", "reward_model_name_or_path", "reward_model", "more_reward_models"),
)


class MissingPathError(ValueError):
    """Something that a flag names is not there."""


def require_file(flag: str, path: str) -> None:
    """Raise MissingPathError unless `path` is a file."""
    if not Path(path).is_file():
        raise MissingPathError(f"{flag} {path}: no such file")


def require_folder(flag: str, path: str) -> None:
    """Raise MissingPathError unless `path` is a directory."""
    if not Path(path).is_dir():
        hint = local_hint(path)
        raise MissingPathError(f"{flag} {path}: no such directory{f': {hint}' if hint else ''}")


def refuse_missing_paths(*settings: Any) -> None:
    """Raise MissingPathError where two or more paths of parsed settings are not there.

    Of a single one, whoever reads it says more: what lies there instead, and what to do.
    """
    refuse_missing({name: value for group in settings for name, value in vars(group).items()})


def refuse_missing(values: Mapping[str, Any]) -> None:
    """The same of flags by name, before they are settings."""
    checks = {
        **dict.fromkeys(_FILES, require_file),
        **dict.fromkeys((*_FOLDERS, *_MODELS), require_folder),
    }
    found: dict[str, str] = {}  # a path that several flags name is told once
    named = [(name, path) for name in checks for path in _paths(values.get(name))]
    for name, path in named:
        if not path or path in found or (name in _MODELS and hub_place(path) is not None):
            continue
        try:
            checks[name](f"--{name}", path)
        except MissingPathError as error:
            found[path] = f"\n  {error}"
    if len(found) > 1:
        raise MissingPathError(
            f"{len(found)} things that the command line names are not there:{''.join(found.values())}"
        )


def _paths(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
