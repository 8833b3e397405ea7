"""Our preferences → rows that other trainers read: TRL, LLaMA-Factory, ms-swift."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_utils.json_stream import OBJECT, layout, stream_rows
from data_utils.problems import DataError, Problem, unreadable
from data_utils.row_fields import BadField
from data_utils.schema import ROWS, PreferenceRecord, bad_row, preference_of
from llava_rlhf.importing.conversations import parts_of, with_markers
from llava_rlhf.runs.save_errors import explaining_failures

MAX_PROBLEMS = 1000  # of a file in which everything is wrong, so many are collected
# Fields that no trainer minds and that an import takes back.
CARRIED = ("captions", "facts", "caption_type")
DATASET_INFO = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
}
_ROLES = {"human": "user", "gpt": "assistant"}


def trl_row(record: PreferenceRecord, images: list[str]) -> dict[str, Any]:
    """TRL: conversational, with parts; `images` stand beside the messages."""
    prompt = [{"role": _ROLES[turn.role], "content": _parts(turn.role, turn.text)} for turn in record.turns]
    chosen, rejected = (
        [{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in _ranked(record)
    )
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "images": images}


def llama_factory_row(record: PreferenceRecord, images: list[str]) -> dict[str, Any]:
    """LLaMA-Factory's ShareGPT layout with `ranking`."""
    messages = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    chosen, rejected = ({"from": "gpt", "value": text} for text in _ranked(record))
    return {"conversations": messages, "chosen": chosen, "rejected": rejected, "images": images}


def ms_swift_row(record: PreferenceRecord, images: list[str]) -> dict[str, Any]:
    """ms-swift: the better answer ends the messages."""
    chosen, rejected = _ranked(record)
    messages = [{"role": _ROLES[turn.role], "content": turn.text} for turn in record.turns]
    messages.append({"role": "assistant", "content": chosen})
    return {"messages": messages, "rejected_response": rejected, "images": images}


EXPORTS: dict[str, Callable[[PreferenceRecord, list[str]], dict[str, Any]]] = {
    "trl": trl_row,
    "llama_factory": llama_factory_row,
    "ms_swift": ms_swift_row,
}


def check_preferences(path: str | Path) -> int:
    """How many preferences a file holds, read row by row. Raises DataError for bad rows, ValueError where there are none."""
    problems: list[Problem] = []
    count = 0
    try:
        if layout(path) == OBJECT:
            raise ValueError("holds a JSON object, not a list of rows")
        for number, value in enumerate(stream_rows(path)):
            try:
                preference_of(value, path, number)
                count += 1
            except BadField as bad:
                problems.append(bad_row(path, number, bad))
                if len(problems) == MAX_PROBLEMS:
                    break
    except ValueError as error:
        problems.append(unreadable(path, error, ROWS))
    if problems:
        raise DataError(problems)
    if not count:
        raise ValueError(f"--preferences_file {path}: holds no preferences yet")
    return count


def exported_rows(path: str | Path, format_name: str, image_folder: str | None) -> Iterator[dict[str, Any]]:
    """The rows of a checked preference file in another format."""
    for number, value in enumerate(stream_rows(path)):
        record = preference_of(value, path, number)
        turns = with_markers(record.turns, len(record.images), "conversations")
        record = PreferenceRecord(**{**vars(record), "turns": turns})
        images = [os.path.join(image_folder or "", name) for name in record.images]
        carried = {key: value[key] for key in CARRIED if value.get(key) is not None}
        yield {"id": record.id, **EXPORTS[format_name](record, images), **carried}


def write_export(path: str | Path, format_name: str, output: Path, image_folder: str | None) -> None:
    """Write the file, whole or not at all."""
    temporary = output.with_name(f"{output.name}.tmp")
    with explaining_failures(output.name, output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            for row in exported_rows(path, format_name, image_folder):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)


def _ranked(record: PreferenceRecord) -> tuple[str, str]:
    return record.outputs[record.preference - 1], record.outputs[2 - record.preference]


def _parts(role: str, text: str) -> list[dict[str, str]]:
    return parts_of(text) if role == "human" else [{"type": "text", "text": text}]
