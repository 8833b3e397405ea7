"""What became of a row → the row that is written, checked as every reader of it will."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_utils.row_fields import BadField
from data_utils.schema import IMAGE_MARKER, AnswerType, preference_of, prompt_of
from llava_rlhf.importing.exports import CARRIED
from llava_rlhf.importing.outcomes import Pair, Question

WRITER = "imported"  # `from` of the outputs
_NAMES = ("id", "question_id", "idx", "ID")


def preference_row(
    pair: Pair, images: list[str], row: Mapping[str, Any], path: Path, number: int
) -> dict[str, Any]:
    """A row of a preference file. Raises BadField for what no reader of it would take."""
    better = pair.outputs[pair.preference - 1]
    messages = [{"from": turn.role, "value": turn.text} for turn in pair.turns]
    written = {
        "id": _name(row, path, number, pair.part),
        **_image(images),
        "conversations": [*messages, {"from": "gpt", "value": better}],
        "output_1": {"from": WRITER, "value": pair.outputs[0]},
        "output_2": {"from": WRITER, "value": pair.outputs[1]},
        "preference": pair.preference,
        **{key: row[key] for key in CARRIED if row.get(key) is not None},
        "source_row": f"{path.name} {number}",
    }
    _check(preference_of, written, path, number)
    return written


def prompt_row(
    question: Question, image: str, row: Mapping[str, Any], path: Path, number: int
) -> dict[str, Any]:
    """A row of a prompt file. Raises BadField as `preference_row`."""
    kind = question.answer_type
    written = {
        "id": _name(row, path, number, ""),
        "image": image,
        "conversations": [{"from": "human", "value": f"{IMAGE_MARKER}\n{question.text}"}],
        **({} if kind is AnswerType.GENERAL else {"caption_type": int(kind)}),
        **question.extra,
        "source_row": f"{path.name} {number}",
    }
    _check(prompt_of, written, path, number)
    return written


def _check(check: Callable[[Any, Path, int], Any], written: dict[str, Any], path: Path, number: int) -> None:
    try:
        check(written, path, number)
    except BadField as bad:
        raise BadField(f"{bad.field} of the converted row", bad.value, bad.remedy, bad.alike) from None


def _name(row: Mapping[str, Any], path: Path, number: int, part: str) -> str:
    """The row's own name, or its place; behind it which of several pairs it is."""
    own = next((row[key] for key in _NAMES if type(row.get(key)) in (str, int) and row[key] != ""), None)
    name = f"{path.name.split('.')[0]}-{number}" if own is None else str(own)
    return f"{name}#{part}" if part else name


def _image(images: list[str]) -> dict[str, Any]:
    return {} if not images else {"image": images[0] if len(images) == 1 else images}
