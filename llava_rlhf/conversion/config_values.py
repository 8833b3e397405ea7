"""Values of a model's `config.json`, checked before a configuration class fails on them without naming the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def check_counts(file: Path, fields: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ValueError unless those of the fields that are there are positive integers."""
    for name in names:
        value = fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{file}: {name} is {value!r}, must be a positive integer")


def check_numbers(file: Path, fields: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ValueError unless those of the fields that are there are finite numbers from 0 on."""
    for name in names:
        value = fields.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and value >= 0):
            raise ValueError(f"{file}: {name} is {value!r}, must be a number from 0 on")


def check_multiple(file: Path, fields: Mapping[str, Any], name: str, divisor: str) -> None:
    """Raise ValueError when both fields are there and the one is no multiple of the other."""
    value, by = fields.get(name), fields.get(divisor)
    if value is not None and by is not None and value % by:
        raise ValueError(f"{file}: {name} {value} is no multiple of {divisor} {by}")


def check_activation(file: Path, fields: Mapping[str, Any]) -> None:
    """Raise ValueError for a `hidden_act` that transformers does not know."""
    value = fields.get("hidden_act")
    if value is not None and not (isinstance(value, str) and value in ACT2FN):
        raise ValueError(f"{file}: hidden_act {value!r} is not known; known: {', '.join(sorted(ACT2FN))}")


def rope_parameters(file: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings under their present names: `rope_scaling` called the kind `type`, and theta stood beside it.

    Raises ValueError for a kind that transformers does not know, and for settings that are no numbers.
    """
    scaling = fields.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ValueError(f"{file}: rope_scaling is {scaling!r}, must be an object such as type and factor")
    scaling = dict(scaling)
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    scaling.pop("rope_type", None)
    known = ("default", *ROPE_INIT_FUNCTIONS)
    if kind not in known:
        raise ValueError(f"{file}: rope_scaling has the type {kind!r}, known: {', '.join(known)}")
    if kind != "default" and scaling.get("factor") is None:
        raise ValueError(f"{file}: rope_scaling of the type {kind} lacks factor")
    check_numbers(file, {"factor of rope_scaling": scaling.get("factor")}, ["factor of rope_scaling"])
    check_numbers(file, fields, ["rope_theta"])
    theta = 10000.0 if fields.get("rope_theta") is None else fields["rope_theta"]
    return {**scaling, "rope_type": kind, "rope_theta": float(theta)}
