"""How `--help` looks: every flag once, what has to be given, defaults as they are typed, examples left in their lines."""

from __future__ import annotations

import argparse
import enum
from typing import Any

ASPECT_HELP = (
    "LLaVA: how pictures are made square. pad: with the mean colour (what is done where nothing is named); square: resize "
    "and crop as the processor does."
)
MIN_PIXELS_HELP = (
    "Qwen: smallest size of a picture in pixels (default: shortest_edge of the base's image processor)."
)
MAX_PIXELS_HELP = (
    "Qwen: largest size of a picture in pixels, by which it takes positions (default: longest_edge there)."
)

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows a default as it is typed on a command line, and says "required" where there is none."""

    def __init__(self, prog: str, **settings: Any):
        super().__init__(prog, max_help_position=34, **settings)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required:
            return f"{text} (required)"
        if action.default in (None, "", argparse.SUPPRESS) or action.nargs == 0:
            return text
        return f"{text} (default: {typed(action.default).replace('%', '%%')})"


def typed(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, (list, tuple)):
        return " ".join(map(typed, value)) or "none"
    return str(value)


def tidy(parser: argparse.ArgumentParser) -> None:
    """Leave one spelling of each flag in the help of a parser; it parses nothing afterwards."""
    for action in parser._actions:
        if isinstance(action, argparse._StoreFalseAction):
            action.help = argparse.SUPPRESS  # --no_x is --x False
        names = [name for name in action.option_strings if name.startswith("--")]
        if names and "-h" not in action.option_strings:
            action.option_strings = names[:1]
        if action.metavar is None and action.choices is None and action.nargs != 0:
            action.metavar = "True|False" if action.nargs == "?" else _METAVARS.get(action.type, "TEXT")
