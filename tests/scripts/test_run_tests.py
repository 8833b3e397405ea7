"""`run_tests.sh` chooses tests by their tier, wherever the flag stands and whatever files are named; costly files come first."""

from __future__ import annotations

import subprocess

import pytest

from tests.support import file_costs
from tests.support.recorded_scripts import copy_scripts
from tests.support.tiers import tiered

PYTHON = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$RECORDED"\nexit "$STATUS"\n'
QUICK, DAILY, ALL = ["-m", "not (slow or nightly)"], ["-m", "not (nightly)"], []


@pytest.fixture
def run(tmp_path):
    """run(*arguments, status): what pytest is told behind the options it always gets; how the script ends."""
    checkout, recorded = copy_scripts(tmp_path / "my checkout"), tmp_path / "recorded"
    (checkout / "scripts" / "setup_venv.sh").write_text("")
    for name, text in {"python": PYTHON, "ruff": "#!/usr/bin/env bash\n"}.items():
        program = tmp_path / "venv" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def _run(*arguments: str, status: int = 0) -> tuple[list[str], subprocess.CompletedProcess]:
        done = subprocess.run(
            ["bash", checkout / "scripts" / "run_tests.sh", *arguments],
            env={
                "PATH": "/usr/bin:/bin",
                "VENV": str(tmp_path / "venv"),
                "RECORDED": str(recorded),
                "STATUS": str(status),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        told = recorded.read_text().splitlines()
        return told[told.index("--no-loadscope-reorder") + 1 :], done

    return _run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], QUICK),
        (["--all"], DAILY),
        (["--nightly"], ALL),
        (["tests/a b.py", "-x"], [*QUICK, "tests/a b.py", "-x"]),
        (["--all", "tests/a b.py"], [*DAILY, "tests/a b.py"]),
        (["tests/a b.py", "--all"], [*DAILY, "tests/a b.py"]),
        (["tests/a b.py::test_it", "--nightly"], ["tests/a b.py::test_it"]),
        (["-m", "distributed"], [*QUICK, "-m", "distributed"]),  # pytest takes the last one
    ],
    ids=str,
)
def test_a_tier_is_chosen_in_what_is_named(run, arguments, expected):
    told, done = run(*arguments)
    assert (told, done.returncode, done.stderr) == (expected, 0, "")


def test_it_ends_as_pytest_does_and_says_why_nothing_was_run(run):
    assert run(status=1)[1].returncode == 1
    for flag, hint in (([], "slow or nightly"), (["--all"], "nightly")):
        done = run(*flag, "tests/slow.py", status=5)[1]
        assert done.returncode == 5 and f"those marked {hint} are left out; add" in done.stderr
    assert run("--nightly", status=5)[1].stderr == ""


def test_marks_of_a_case():
    def marks(params):
        return [[mark.name for mark in param.marks] for param in params]

    assert marks(tiered("abc", quick="a")) == [[], ["slow"], ["slow"]]
    assert marks(tiered("abc", quick="a", daily="b")) == [[], ["slow"], ["nightly"]]
    pairs = tiered([("a", 1), ("b", 2)], daily=[("b", 2)])
    assert [param.values for param in pairs] == [("a", 1), ("b", 2)] and marks(pairs) == [
        ["nightly"],
        ["slow"],
    ]
    with pytest.raises(ValueError, match="no case is called"):
        tiered("abc", quick="d")


def test_files_are_ordered_by_what_they_took(tmp_path, monkeypatch):
    """As two reports tell; a file of no line by its number of tests."""
    monkeypatch.setattr(file_costs, "TABLE", tmp_path / "table.txt")
    case = '<testcase classname="tests.room.test_{}" name="one" time="{}"/>'
    for name, times in {"quick": {"a": 5, "b": 6}, "all": {"a": 5, "b": 9, "c": 300}}.items():
        cases = "".join(case.format(*entry) for entry in times.items())
        (tmp_path / name).write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    file_costs.main(str(tmp_path / "quick"), str(tmp_path / "all"))
    a, b, c, d = (file_costs.ROOT / f"tests/room/test_{name}.py" for name in "abcd")
    tests = [*[a] * 3, b, *[d] * 80]
    assert file_costs.costs_of(tests, whole=False) == {a: 5.0, b: 6.0, d: 8.0}
    assert file_costs.costs_of([c, *tests], whole=True) == {a: 5.0, b: 9.0, c: 300.0, d: 8.0}
