"""The list of requirements, and the script that installs it (with a Python that only records)."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import shutil
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.recorded_scripts import ROOT, ScriptRunner

OURS = {"data_utils", "models", "llava_rlhf"}
# Imported by a library on our behalf, never by name: what for stands in requirements.txt.
INDIRECT = {"protobuf", "tensorboard", "deepspeed"}
# Imported where a flag asks for it, which is refused where the package is missing (ppo/trackers.py, evaluation/benchmarks/words.py):
# nobody else needs it.
OPTIONAL = {"wandb", "nltk", "spacy"}


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    return {item.name: item for item in found}


def imported_distributions() -> set[str]:
    """Distributions whose modules the three packages import, by the names of the package index."""
    modules = set()
    for path in (path for folder in sorted(OURS) for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
    owners = importlib.metadata.packages_distributions()
    return {
        owners[module][0].lower().replace("_", "-")
        for module in modules - OURS - OPTIONAL - set(sys.stdlib_module_names)
    }


def test_requirements_are_what_is_imported():
    listed = set(requirements("requirements.txt"))
    assert imported_distributions() | INDIRECT == listed


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_installed_versions_are_in_the_stated_ranges(name):
    wrong = {
        item.name: importlib.metadata.version(item.name)
        for item in requirements(name).values()
        if not item.specifier.contains(importlib.metadata.version(item.name), prereleases=True)
    }
    assert wrong == {}


def test_every_requirement_has_a_reason_and_torch_is_not_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line.split("#")[0].strip()]
    assert all(len(line.split("#", 1)[1].split()) >= 2 for line in listed)
    assert [spec.operator for spec in requirements("requirements.txt")["torch"].specifier] == [">="]


@pytest.fixture
def setup(tmp_path):
    """A checkout in a folder with a space, and an environment whose Python records."""
    checkout = tmp_path / "my checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup_venv.sh", checkout / "scripts")
    for name in ("setup.py", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, checkout)
    runner = ScriptRunner(checkout, tmp_path)
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    shutil.copy(runner.recorder, venv / "bin" / "python")
    return runner, venv


def pip_calls(runner: ScriptRunner) -> list[list[str]]:
    """Arguments of every `pip install`."""
    return [list(call[call.index("install") + 1 :]) for call in recorded(runner) if "pip" in call]


def recorded(runner: ScriptRunner) -> list[tuple[str, ...]]:
    return [tuple(path.read_text().split("\0")[:-1]) for path in sorted(runner.records.iterdir())]


def test_setup_installs_torch_first_then_the_lists_then_the_packages(setup):
    runner, _ = setup
    done = runner.start("setup_venv.sh", "--dev", FAIL_ON="find_spec", TORCH_SPEC="torch==9.9 --pre")
    assert done.returncode == 0, done.stderr
    root = str(runner.checkout)
    assert pip_calls(runner) == [
        ["torch==9.9", "--pre"],
        ["-r", f"{root}/requirements.txt"],
        ["setuptools>=70.1"],
        ["--no-build-isolation", "--no-deps", "--editable", root],
        ["-r", f"{root}/requirements-dev.txt"],
    ]


def test_setup_keeps_an_installed_torch(setup):
    runner, _ = setup
    assert runner.start("setup_venv.sh").returncode == 0
    assert pip_calls(runner)[0] == ["-r", f"{runner.checkout}/requirements.txt"]
    assert not any("requirements-dev" in word for call in pip_calls(runner) for word in call)


def test_setup_does_nothing_twice_and_notices_a_change(setup):
    runner, venv = setup
    assert runner.start("setup_venv.sh").returncode == 0
    again = runner.start("setup_venv.sh")
    assert again.returncode == 0 and "up to date" in again.stdout and recorded(runner) == []
    stamp = hashlib.sha256(f"{runner.checkout}\n".encode())
    for name in ("setup.py", "requirements.txt", "requirements.txt"):
        stamp.update((runner.checkout / name).read_bytes())
    assert (venv / "installed-requirements.txt.sha256").read_text().strip() == stamp.hexdigest()[:16]
    runner.start("setup_venv.sh", "--dev")
    assert pip_calls(runner) == [["-r", f"{runner.checkout}/requirements-dev.txt"]]
    (runner.checkout / "requirements.txt").write_text("einops\n")
    runner.start("setup_venv.sh")
    assert pip_calls(runner)[0] == ["-r", f"{runner.checkout}/requirements.txt"]


def test_a_failed_installation_is_not_stamped(setup):
    runner, venv = setup
    assert runner.start("setup_venv.sh", FAIL_ON="requirements.txt").returncode != 0
    assert not list(Path(venv).glob("installed-*"))


def test_setup_refuses_an_unknown_argument(setup):
    runner, _ = setup
    done = runner.start("setup_venv.sh", "--devel")
    assert done.returncode == 2 and "--devel" in done.stderr
