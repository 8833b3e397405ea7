"""`--summary_only True`: what it leaves out of a command line, so that any machine can read the data of a run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from transformers.hf_argparser import string_to_bool

# What asks for a GPU, a number format or a package; the data is the same without.
_ANYWHERE = {
    "use_cpu": "True",
    "bf16": "False",
    "fp16": "False",
    "bf16_full_eval": "False",
    "fp16_full_eval": "False",
    "attn_implementation": "sdpa",
    "report_to": "none",
}
_LEFT_OUT = ("deepspeed", "tf32")


def asks_for_summary(argv: Sequence[str]) -> bool:
    """Whether a command line has `--summary_only` (the last one counts); False where its value is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(
        *_spellings("summary_only"), nargs="?", const=True, default=False, type=string_to_bool
    )
    try:
        return parser.parse_known_args(list(argv))[0].summary_only
    except argparse.ArgumentError:  # the program's own parser says what is wrong
        return False


def for_any_machine(argv: Sequence[str], known: Collection[str]) -> list[str]:
    """A command line without what only the machine of the run has; `known` are the flags of the program."""
    kept, words = [], iter(argv)
    left_out = [spelling for name in _LEFT_OUT for spelling in _spellings(name)]
    for word in words:
        if word in left_out:
            next(words, None)
        elif word.split("=", 1)[0] not in left_out:
            kept.append(word)
    added = [(f"--{name}", value) for name, value in _ANYWHERE.items() if f"--{name}" in known]
    return [*kept, *(word for pair in added for word in pair)]


def _spellings(name: str) -> list[str]:
    return [f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else [])]
