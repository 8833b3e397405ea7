"""docs/departures.md: every departure is filled in, and names tests and flags that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.runs.parsing import StrictParser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "departures.md"
DEPARTURE = ["the original", "here", "why", "test", "flag"]
KEPT = ["what", "test", "flag"]


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Every table as its header and its rows, each a list of cells."""
    found: list[tuple[list[str], list[list[str]]]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif not inside:
            found.append((cells, []))
            inside = True
        elif not set("".join(cells)) <= set("-: "):
            found[-1][1].append(cells)
    return found


def named_tests(cell: str) -> list[str]:
    return re.findall(r"`(tests/[^`]+\.py[^`]*)`", cell)


def is_a_test(root: Path, name: str) -> bool:
    """Whether `path::function` is a test function at the top of that file, by its syntax alone."""
    path, _, function = name.partition("::")
    if not function.startswith("test_") or not (root / path).is_file():
        return False
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def test_the_checks_see_what_they_look_for(tmp_path):
    text = "# A\n\n| a | b |\n|---|---|\n| 1 | `tests/x.py::test_a`, `tests/x.py::test_b` |\n\n| c |\n|---|\n| 2 |\n"
    assert tables(text) == [
        (["a", "b"], [["1", "`tests/x.py::test_a`, `tests/x.py::test_b`"]]),
        (["c"], [["2"]]),
    ]
    assert named_tests("`tests/x.py::test_a`, `--seed`, `tests/x.py::test_b`") == [
        "tests/x.py::test_a",
        "tests/x.py::test_b",
    ]
    (tmp_path / "x.py").write_text("def helper():\n    def test_inner(): ...\ndef test_a(): ...\n")
    names = ["x.py::test_a", "x.py::test_b", "x.py::helper", "x.py::test_inner", "y.py::test_a", "x.py"]
    assert [is_a_test(tmp_path, name) for name in names] == [True] + [False] * 5


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_every_row_is_filled_in(document):
    *departures, kept = tables(document)
    assert kept[0] == KEPT and len(kept[1]) > 5
    assert [header for header, _ in departures] == [DEPARTURE] * len(departures)
    rows = [row for _, rows in departures for row in rows]
    assert len(rows) > 30
    for row in [*rows, *kept[1]]:
        assert len(row) in (len(DEPARTURE), len(KEPT)) and all(row), row
        test, flag = row[-2:]
        assert named_tests(test), f"no test: {row[0]}"
        assert flag == "–" or flag.startswith("`--"), f"no flag: {row[0]}"


def test_every_test_that_is_named_exists(document):
    names = named_tests(document)
    assert len(names) > 40
    assert [name for name in names if not is_a_test(ROOT, name)] == []


def test_every_flag_that_is_named_exists(document):
    programs = (initialize_policy_model, train_reward_model, train_rl_model)
    known = {
        option
        for program in programs
        for option in StrictParser(program.ARGUMENTS).complete()._option_string_actions
        if option.startswith("--")
    }
    named = set(re.findall(r"--[a-z]\w*", document))
    assert "--numerics" in named
    assert named - known == set()
