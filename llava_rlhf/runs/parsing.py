"""Command line → dataclasses. Unknown flags are errors that name the closest flag; `--help` stays readable."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import faulthandler
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from transformers import HfArgumentParser

from data_utils.problems import DataError
from llava_rlhf.hub.flags import fetch_flags
from llava_rlhf.runs.checking import READY, end_after_summary, planned_processes, refuse
from llava_rlhf.runs.help_texts import HelpFormatter, tidy
from llava_rlhf.runs.logs import leave_bars_out_of_files
from llava_rlhf.runs.missing_paths import MissingPathError, refuse_missing
from llava_rlhf.runs.run_record import recorded_places
from llava_rlhf.runs.save_errors import SaveError
from llava_rlhf.runs.stopping import EngineError
from llava_rlhf.runs.summary_only import asks_for_summary, for_any_machine

T = TypeVar("T")


class ArgumentError(ValueError):
    """The command line can't be used as it is."""


class StrictParser(HfArgumentParser):
    """`HfArgumentParser` without abbreviations, with a hint for unknown flags.

    A class with `complete()` stands in `--help` for the one that it returns, which is loaded when flags are parsed. One with
    `defaults_for(said)` names the defaults, of any class's flags, that follow from what was said.
    """

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any):
        self._settings = kwargs
        super().__init__(
            list(dataclass_types),
            allow_abbrev=False,
            usage="%(prog)s --FLAG VALUE ...",
            formatter_class=HelpFormatter,
            **kwargs,
        )
        more = any(hasattr(cls, "complete") for cls in dataclass_types)
        self.add_argument(
            "--help_all",
            action="store_true",
            help="show every flag of transformers.TrainingArguments" if more else argparse.SUPPRESS,
        )

    def error(self, message: str) -> None:
        """Raise `ArgumentError` instead of printing the whole usage."""
        raise ArgumentError(f"{message}\n(--help lists the flags)")

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Parse into one object per dataclass.

        Raises:
            ArgumentError: unknown flag (with the closest known one), missing or malformed value.
            ValueError: a dataclass refused its values.
        """
        if "--help_all" in argv or "--help" in argv or "-h" in argv:
            shown = self.complete() if "--help_all" in argv else self
            shown._follow(argv)
            tidy(shown)
            shown.print_help()
            raise SystemExit(0)
        return self.complete()._parse(argv)

    def _parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        self._refuse_unknown_flags(argv)
        self._follow(argv)
        summary = "--summary_only" in self._option_string_actions and asks_for_summary(argv)
        if summary:
            argv = for_any_machine(argv, self._option_string_actions)
        namespace, remaining = self.parse_known_args(list(argv))
        if remaining:
            raise ArgumentError(f"unexpected value on the command line: {' '.join(remaining)}")
        flags = vars(namespace)
        fetch_flags(
            flags, recorded_places(flags), configurations=summary
        )  # before any check: those look at files
        try:
            return self.parse_dict(flags, allow_extra_keys=True)
        except MissingPathError:
            refuse_missing(flags)
            raise

    def parse_values(self, argv: Sequence[str]) -> dict[str, Any]:
        """All flags by name, without the objects that check them: for who only looks, where the files named are not.

        Required flags may be missing (None). Raises ArgumentError as `parse` does.
        """
        return self.complete()._parse_values(argv)

    def _parse_values(self, argv: Sequence[str]) -> dict[str, Any]:
        self._refuse_unknown_flags(argv)
        self._follow(argv)
        for action in self._actions:
            action.required = False
        return vars(self.parse_args(list(argv)))

    def _follow(self, argv: Sequence[str]) -> None:
        """Set the defaults that follow from other flags."""
        words = [word.partition("=") for word in argv]
        said = {
            name.removeprefix("--"): value if equals else following
            for (name, equals, value), following in zip(words, [*argv[1:], ""], strict=False)
            if name.startswith("--")
        }
        for cls in self.dataclass_types:
            if hasattr(cls, "defaults_for"):
                self.set_defaults(**cls.defaults_for(said))

    def _refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        # Before argparse complains of missing ones: a misspelt required flag should be called misspelt.
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in argv:
            flag = word.split("=", 1)[0]
            if flag.startswith("--") and flag not in known:
                closest = difflib.get_close_matches(flag, known, n=1, cutoff=0.57)
                hint = f"; the closest flag is {closest[0]}" if closest else ""
                raise ArgumentError(f"unknown flag {flag}{hint}")

    def complete(self) -> StrictParser:
        """The parser of every flag; this one, where no class stands for another."""
        classes = [cls.complete() if hasattr(cls, "complete") else cls for cls in self.dataclass_types]
        return self if classes == list(self.dataclass_types) else StrictParser(classes, **self._settings)


def split_action(
    argv: Sequence[str], actions: Collection[str], description: str
) -> tuple[str, Sequence[str]]:
    """Command line of a program with several actions → the action, and the flags behind it. `--help` alone prints `description`.

    Raises:
        ArgumentError: no such action.
        SystemExit: no action, or help was asked for.
    """
    action = argv[0] if argv else ""
    if action in ("", "-h", "--help"):
        print(description)
        raise SystemExit(0 if action else 2)
    if action not in actions:
        raise ArgumentError(f"unknown action {action}: choose from {', '.join(actions)}")
    return action, argv[1:]


def run_program(prepare: Callable[[Sequence[str]], T | None], run: Callable[[T], None]) -> None:
    """Run a program in its two halves; of the check before a launch (`checking`) the first one only.

    Args:
        prepare: command line → everything checked and ready; None where that is all that was asked for. A ValueError here
            is a user's mistake, which is printed without a traceback and exits with status 2.
        run: the work; its exceptions are ours and keep their traceback, but for a file system that does not take what is
            written and for servers that do not answer (one message, and status 1), and data that only the work itself reads
            to their end (as `prepare`).
    """
    leave_bars_out_of_files()
    try:
        prepared = prepare(sys.argv[1:])
    except ValueError as error:
        refuse(error, 2)
    except SaveError as error:  # of an adapter that servers are to try
        refuse(error, 1)
    if prepared is not None and planned_processes() is not None:
        raise SystemExit(READY)
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # an error output that is no file
        faulthandler.enable()  # a crash in foreign code says where it was
    try:
        _recorded(run)(prepared)
    except (SaveError, EngineError) as error:
        refuse(error, 1)
    except DataError as error:
        refuse(error, 2)
    if prepared is None:
        print("data and settings are fine; nothing was started")
        end_after_summary()


def _recorded(run: Callable[[T], None]) -> Callable[[T], None]:
    """Under torchrun its last words are then the traceback of the process that failed first."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return run
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(run)
