"""What a row of another format can become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_utils.schema import AnswerType, Turn


@dataclass(frozen=True)
class Context:
    """What all rows of an import share.

    Attributes:
        system: what becomes of system messages: "refuse" or "drop".
        tables: what rows refer to by number, by the name of the table.
    """

    system: str = "refuse"
    tables: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture as a row has it: a file name, one of several names, bytes, base64, a data URL, or an object with them.

    Attributes:
        field: where it stands in the row.
        value: as it stands there.
        names: file names of which the first that is there is meant; used instead of `value` where there are any.
    """

    field: str
    value: Any = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two answers to the last of `turns`, a human's.

    Attributes:
        turns: human and gpt in turn, with `<image>` for each picture, or without any.
        pictures: in the order of the markers.
        outputs: the answers.
        preference: 1 or 2, the better one.
        part: which of several pairs of one row, "" where it gives one.
    """

    turns: tuple[Turn, ...]
    pictures: tuple[Picture, ...]
    outputs: tuple[str, str]
    preference: int = 1
    part: str = ""


@dataclass(frozen=True)
class Tie:
    """Two answers of which none is better; left out, counted and listed."""

    field: str
    value: Any


@dataclass(frozen=True)
class Question:
    """A prompt for PPO; `extra` are further fields of the row."""

    text: str
    picture: Picture
    answer_type: AnswerType = AnswerType.GENERAL
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Captions:
    """What is known of a picture in words; `prefix` stands before its name in the caption map."""

    image: str | Picture
    texts: Sequence[str]
    prefix: str = ""


@dataclass(frozen=True)
class Objects:
    """An entry of the map of facts: a picture, and something that is in it."""

    image: str
    fact: Mapping[str, Any]


Outcome = Pair | Tie | Question | Captions | Objects
