"""`--help` of every program, behind every action: each flag once, in the words of a command line, with examples that work."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex

import pytest

from llava_rlhf.runs.parsing import StrictParser
from tests.house.test_start_up import runnable

FLAG = re.compile(r"^  (?:-h, )?--(\w+)", re.MULTILINE)
NO_EXAMPLE = {"llava_rlhf.tiny_world.report"}  # called by one script, with what eight stages have written
OWN_PARSING = {"llava_rlhf.plan_memory"}  # its flags are those of other programs too


def helps() -> list[tuple[str, ...]]:
    """Program, and its action if it has some."""
    found = []
    for module in runnable():
        arguments = getattr(importlib.import_module(module), "ARGUMENTS", ())
        found += [(module, action) for action in arguments] if isinstance(arguments, dict) else [(module,)]
    return found


def examples(module: str) -> list[str]:
    text = inspect.cleandoc(importlib.import_module(module).__doc__).replace("\\\n", "")
    return re.findall(r"^ *(python -m llava_rlhf\..*)$", text, re.MULTILINE)


@pytest.mark.parametrize("command", helps(), ids=" ".join)
def test_help_is_in_the_words_of_a_command_line(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    module, *action = command
    parsers = []
    tell = StrictParser.print_help
    monkeypatch.setattr(StrictParser, "print_help", lambda self: (parsers.append(self), tell(self)))
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).prepare([*action, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.startswith("usage: ")
    if module in OWN_PARSING:
        return
    flags = FLAG.findall(text)
    assert len(flags) == len(set(flags)) > 1
    assert not re.search(r"^  --.*, --", text, re.MULTILINE) and "--no_" not in text
    assert not re.search(r"<\w|\b[A-Z]\w+\.[A-Z][A-Z_0-9]+\b|default: (None|\[|\))", text)
    required = {entry.dest for entry in parsers[0]._actions if entry.required}
    entries = re.split(r"\n(?=  --|\n)", text)
    told = {FLAG.findall(entry)[0] for entry in entries if FLAG.match(entry) and "(required)" in entry}
    assert required <= told
    if module in ("llava_rlhf.train_reward_model", "llava_rlhf.initialize_policy_model"):
        assert {"model_name_or_path", "output_dir"} <= told


@pytest.mark.parametrize(
    "module",
    [
        # The planner's is a plan of a published size.
        pytest.param(module, marks=pytest.mark.slow if module.endswith("plan_memory") else ())
        for module in runnable()
        if module not in NO_EXAMPLE
    ],
)
def test_examples_can_be_pasted(module, monkeypatch):
    """Every flag is known, has a value that it takes, and none is missing; the files need not be there."""
    if module in OWN_PARSING:
        for example in examples(module):
            importlib.import_module(module).prepare(shlex.split(example)[3:])
        return

    def parse(self, argv):
        whole = self.complete()
        missing = {entry.dest for entry in whole._actions if entry.required}
        values = self.parse_values(argv)
        assert {name for name in missing if values[name] is None} == set()
        raise StopIteration

    monkeypatch.setattr(StrictParser, "parse", parse)
    found = examples(module)
    assert found, f"{module}: no example"
    for example in found:
        words = shlex.split(example)
        assert words[:3] == ["python", "-m", module]
        with pytest.raises(StopIteration):
            importlib.import_module(module).prepare(words[3:])
