"""The flags of the Trainer that `--help` shows without transformers' own class are that class's flags."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from transformers import TrainingArguments

from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
from llava_rlhf.runs.training_flags import OurTrainingFlags, TrainingFlags

OURS = {field.name for field in dataclasses.fields(OurTrainingFlags)}
SHOWN = sorted(field.name for field in dataclasses.fields(TrainingFlags))


def plain(value):
    """Without the classes of choices, which have their words as values."""
    return getattr(value, "value", value)


@pytest.mark.parametrize("name", SHOWN)
def test_a_flag_that_is_shown_is_one_of_the_whole_class_with_its_default(name):
    whole, shown = (cls.__dataclass_fields__[name] for cls in (LlavaTrainingArguments, TrainingFlags))
    assert plain(shown.default) == plain(whole.default)
    assert shown.default_factory is whole.default_factory is dataclasses.MISSING
    if name not in OURS:
        assert whole is TrainingArguments.__dataclass_fields__[name]


@pytest.mark.parametrize("name", SHOWN)
def test_a_choice_that_is_shown_can_be_made_and_no_other(name):
    actions = (
        StrictParser((cls,))._option_string_actions[f"--{name}"]
        for cls in (TrainingFlags, LlavaTrainingArguments)
    )
    shown, whole = actions
    assert shown.nargs == whole.nargs and shown.option_strings == whole.option_strings
    if shown.choices:
        assert list(shown.choices) == list(whole.choices)
    hints = typing.get_type_hints(TrainingFlags)
    if not shown.choices and hints[name] is not str:
        assert shown.type is whole.type


def test_settings_that_are_ours_differ_from_the_library_and_the_rest_does_not():
    theirs, ours = TrainingArguments.__dataclass_fields__, LlavaTrainingArguments.__dataclass_fields__
    changed = {name for name in theirs if ours[name] is not theirs[name]}
    added = set(ours) - set(theirs)
    assert changed == {"output_dir", "learning_rate", "max_grad_norm", "logging_steps", "report_to"} | {
        "ddp_find_unused_parameters"
    }
    assert added == {"model_name_or_path", "eval_size"}
    assert list(ours)[: len(theirs)] == list(theirs)


def test_a_command_line_is_parsed_into_the_whole_class(tmp_path):
    argv = ["--model_name_or_path", "base", "--output_dir", str(tmp_path), "--use_cpu", "True"]
    (parsed,) = StrictParser((TrainingFlags,)).parse(argv)
    assert type(parsed) is LlavaTrainingArguments and parsed.learning_rate == 2e-5 and parsed.eval_size == 500
    values = StrictParser((TrainingFlags,)).parse_values(["--adam_beta1", "0.5"])
    assert values["adam_beta1"] == 0.5 and values["save_steps"] == 500
