"""Command line → dataclasses. Unknown flags are errors that name the closest flag; `--help` stays readable."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from torch.distributed.elastic.multiprocessing.errors import record
from transformers import HfArgumentParser, TrainingArguments

from llava_rlhf.runs.save_errors import SaveError

# The flags of transformers.TrainingArguments that the published scripts use; `--help` shows these, `--help_all` all.
COMMON_TRAINING_FLAGS = frozenset(
    "model_name_or_path eval_size output_dir learning_rate max_grad_norm logging_steps report_to num_train_epochs "
    "max_steps per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "gradient_checkpointing eval_strategy eval_steps save_strategy save_steps save_total_limit weight_decay "
    "warmup_steps lr_scheduler_type optim bf16 fp16 seed deepspeed use_cpu dataloader_num_workers "
    "metric_for_best_model load_best_model_at_end ddp_timeout".split()
)

T = TypeVar("T")


class ArgumentError(ValueError):
    """The command line can't be used as it is."""


class StrictParser(HfArgumentParser):
    """`HfArgumentParser` without abbreviations, with a hint for unknown flags."""

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any):
        super().__init__(
            list(dataclass_types), allow_abbrev=False, usage="%(prog)s --FLAG VALUE ...", **kwargs
        )
        self.add_argument(
            "--help_all", action="store_true", help="show every flag of transformers.TrainingArguments"
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
        if "--help_all" in argv:
            self.print_help()
            raise SystemExit(0)
        if "--help" in argv or "-h" in argv:
            self._hide_rare_training_flags()
            self.print_help()
            raise SystemExit(0)
        self._refuse_unknown_flags(argv)
        *parsed, _, remaining = self.parse_args_into_dataclasses(
            args=list(argv), return_remaining_strings=True, look_for_args_file=False
        )
        if remaining:
            raise ArgumentError(f"unexpected value on the command line: {' '.join(remaining)}")
        return tuple(parsed)

    def parse_values(self, argv: Sequence[str]) -> dict[str, Any]:
        """All flags by name, without the objects that check them: for who only looks, where the files named are not.

        Required flags may be missing (None). Raises ArgumentError as `parse` does.
        """
        self._refuse_unknown_flags(argv)
        for action in self._actions:
            action.required = False
        return vars(self.parse_args(list(argv)))

    def _refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        # Before argparse complains of missing ones: a misspelt required flag should be called misspelt.
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in argv:
            flag = word.split("=", 1)[0]
            if flag.startswith("--") and flag not in known:
                closest = difflib.get_close_matches(flag, known, n=1, cutoff=0.4)
                hint = f"; the closest flag is {closest[0]}" if closest else ""
                raise ArgumentError(f"unknown flag {flag}{hint}")

    def _hide_rare_training_flags(self) -> None:
        ours = {
            name
            for cls in self.dataclass_types
            if not issubclass(cls, TrainingArguments)
            for name in _names(cls)
        }
        for action in self._actions:
            shown = action.dest in ours | COMMON_TRAINING_FLAGS | {"help", "help_all"}
            negation = isinstance(action, argparse._StoreFalseAction)
            if not shown or negation:
                action.help = argparse.SUPPRESS


def _names(cls: type) -> list[str]:
    return list(cls.__dataclass_fields__)


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


def run_program(prepare: Callable[[Sequence[str]], T], run: Callable[[T], None]) -> None:
    """Run a program in its two halves.

    Args:
        prepare: command line → everything checked and ready; a ValueError here is a user's mistake, which is printed
            without a traceback and exits with status 2.
        run: the work; its exceptions are ours and keep their traceback, but for a file system that does not take what is
            written: one message, and status 1.
    """
    try:
        prepared = prepare(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        record(run)(prepared)  # torchrun's last words are then the traceback of the process that failed first
    except SaveError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
