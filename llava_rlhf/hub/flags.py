"""Which flags may name a place on the Hub, and the one step that puts the downloaded path in its stead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Any

from llava_rlhf.hub.places import HubPlace, hub_place, is_first_of_machine, place_of_download

# Bases, adapters and reward models: a folder of safetensors.
MODEL_FLAGS = frozenset(
    "model_name_or_path base_model_name base_model value_base_model reward_base_model_name judge_model_path "
    "adapter policy_model_name_or_path reward_model_name_or_path reward_model more_reward_models".split()
)
# Rows, captions and questions: one file each.
DATA_FLAGS = frozenset(
    "dataset_path image_to_caption_file image_to_facts_file fact_synonyms preferences_file check_prompts benchmark_files".split()
)
CHECKPOINTS = "checkpoints"  # NAME=BASE,ADAPTER


def fetch_flags(
    flags: MutableMapping[str, Any], recorded: Mapping[str, str], configurations: bool = False
) -> None:
    """Download what the flags of a command line name on the Hub, and put its path in the place of its id.

    Args:
        flags: by name; changed.
        recorded: of `places_of`, in the run that the command line continues: an id without a revision then means that
            commit, not a newer one.
        configurations: whether of models all but the weights will do.

    Raises:
        ValueError: something is not to be had.
    """
    for name in sorted(flags.keys() & (MODEL_FLAGS | DATA_FLAGS | {CHECKPOINTS})):
        flags[name] = _fetched(name, flags[name], recorded, configurations)


def places_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Flag → repository and commit, for every flag whose value lies in the download cache; of a list `flag.0`, `flag.1`, …"""
    values = {name: value for name, value in settings.items() if name in MODEL_FLAGS | DATA_FLAGS}
    for name in MODEL_FLAGS & values.keys():
        if isinstance(values[name], list):
            values |= {_numbered(name, number): value for number, value in enumerate(values[name])}
    places = {name: place_of_download(value) for name, value in values.items() if isinstance(value, str)}
    return {name: str(place) for name, place in places.items() if place is not None}


def fetch_named_model(what: str, path: str, configurations: bool = False) -> str:
    """The folder of a model: the path itself, or where its id was downloaded to. Raises ValueError.

    Args:
        what: names the model, for messages.
        path: or a place on the Hub.
        configurations: whether its configuration alone will do.
    """
    place = hub_place(path)
    if place is None:
        return path
    from llava_rlhf.hub.downloads import CONFIGURATIONS, MODEL_FILES, fetch_model

    return fetch_model(what, place, CONFIGURATIONS if configurations else MODEL_FILES)


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}"


def _fetched(name: str, value: Any, recorded: Mapping[str, str | None], configurations: bool) -> Any:
    if isinstance(value, list):
        return [
            _fetched(name, item, {name: recorded.get(_numbered(name, number))}, configurations)
            for number, item in enumerate(value)
        ]
    if not isinstance(value, str):
        return value
    if name == CHECKPOINTS:
        label, equals, paths = value.partition("=")
        found = [_fetched_text(name, path, None, configurations) for path in paths.split(",")]
        return label + equals + ",".join(found)
    return _fetched_text(name, value, recorded.get(name), configurations)


def _fetched_text(name: str, text: str, recorded: str | None, configurations: bool) -> str:
    place = hub_place(text)
    if place is None:
        return text
    what = f"--{name} {text}"
    known = hub_place(recorded) if recorded else None
    if known is not None and place.revision is None and place.repo == known.repo:
        if is_first_of_machine():
            print(f"{what}: at commit {known.revision}, as in the run that goes on", file=sys.stderr)
        place = replace(place, revision=known.revision)
    return _fetcher(name, configurations)(what, place)


def _fetcher(name: str, configurations: bool) -> Callable[[str, HubPlace], str]:
    if name in DATA_FLAGS:
        from llava_rlhf.hub.data_files import fetch_data

        return fetch_data
    from llava_rlhf.hub.downloads import CONFIGURATIONS, fetch_model

    return partial(fetch_model, patterns=CONFIGURATIONS) if configurations else fetch_model
