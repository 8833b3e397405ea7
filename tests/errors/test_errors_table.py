"""docs/errors.md and the tests of this folder say the same."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from llava_rlhf import (
    answer_prompts,
    initialize_policy_model,
    score,
    serve_policy,
    serve_reward,
    train_reward_model,
    train_rl_model,
)
from llava_rlhf.conversion import rename_weights
from llava_rlhf.evaluation.arguments import JudgeArguments, ScoreArguments
from llava_rlhf.evaluation.benchmark_arguments import BenchmarkArguments
from llava_rlhf.evaluation.suite_arguments import SuiteArguments
from llava_rlhf.importing.arguments import ExportArguments, ImportArguments
from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.runs.parsing import StrictParser
from tests.errors.documented import DOCUMENT, HEADER, SKIPPED, rows
from tests.house.test_departures_table import tables

HERE = Path(__file__).parent


def cases() -> set[str]:
    """The name of every case of this folder."""
    found = set()
    for file in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"tests.errors.{file.stem}")
        names = getattr(module, "CASES", ())
        assert not names or hasattr(module, "test_documented"), file
        found |= {f"tests/errors/{file.name}::test_documented[{name}]" for name in names}
    return found


def test_every_row_has_its_test_and_every_test_its_row():
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = [row[-1].strip("`") for header, body in tables(text) if header == HEADER for row in body]
    assert len(listed) == len(set(listed)) >= 60
    assert set(listed) == cases()


def test_every_row_is_filled_in():
    for name, row in rows().items():
        assert all((row.problem, row.message, row.remedy)), name
        assert row.skipped in SKIPPED, name
        assert row.accepted or re.fullmatch(r"`[^`]{10,}`", row.message), name
        # A message that is all wildcard would be seen in anything.
        assert row.accepted or max(map(len, row.message.strip("`").split("…"))) >= 10, name


def test_the_number_of_refusals_is_the_one_the_document_states():
    refused = [row for row in rows().values() if not row.accepted]
    stated = re.search(r"Bad inputs refused: (\d+) of (\d+)\.", DOCUMENT.read_text(encoding="utf-8"))
    assert stated is not None and {int(number) for number in stated.groups()} == {len(refused)}
    accepted = re.search(r"Unusual inputs read right: (\d+) of (\d+)\.", DOCUMENT.read_text(encoding="utf-8"))
    assert accepted is not None and {int(number) for number in accepted.groups()} == {
        len(rows()) - len(refused)
    }


def test_every_flag_that_is_named_exists():
    programs = (
        initialize_policy_model,
        train_reward_model,
        train_rl_model,
        score,
        serve_policy,
        serve_reward,
        rename_weights,
    )
    known = {
        option
        for program in programs
        for option in StrictParser(program.ARGUMENTS).complete()._option_string_actions
    }
    evaluation = (BenchmarkArguments, ScoreArguments, JudgeArguments, SuiteArguments, RunReportArguments)
    for group in (answer_prompts.AnswerArguments, *evaluation, ImportArguments, ExportArguments):
        known |= set(StrictParser((group,))._option_string_actions)
    shown_misspelt = {"--lerning_rate"}
    assert set(re.findall(r"--[a-z]\w*", DOCUMENT.read_text(encoding="utf-8"))) - known == shown_misspelt
