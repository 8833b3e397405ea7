"""The README and the other documents speak of what is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
TEXT_FILES = (".md", ".sh", ".txt", ".toml", ".py")


def tracked_text_files() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: the list of tracked files is not known")
    return [ROOT / name for name in listed.stdout.splitlines() if name.endswith(TEXT_FILES)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_is_named_exists(document):
    text = document.read_text(encoding="utf-8")
    scripts = set(re.findall(r"\bscripts/[\w.\-/]+\.(?:sh|json)\b", text))
    linked = {target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target}
    modules = set(re.findall(r"python -m (llava_rlhf[\w.]*)", text))
    missing = [name for name in scripts if not (ROOT / name).is_file()]
    missing += [name for name in linked if not (document.parent / name).exists()]
    missing += [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    assert not missing
    assert document != ROOT / "README.md" or (scripts and linked and modules)


@pytest.mark.parametrize("document", ["README.md", "docs/recipe.md", "docs/formats.md"])
def test_every_flag_that_the_main_pages_name_is_known(document):
    from llava_rlhf import (
        convert_checkpoint,
        evaluate,
        export_policy,
        initialize_policy_model,
        make_dataset,
        plan_memory,
        train_reward_model,
        train_rl_model,
    )
    from llava_rlhf.evaluation.arguments import AnswerArguments
    from llava_rlhf.reporting.arguments import RunReportArguments
    from llava_rlhf.runs.parsing import StrictParser

    classes = [*train_reward_model.ARGUMENTS, *initialize_policy_model.ARGUMENTS, *train_rl_model.ARGUMENTS]
    classes += [AnswerArguments, export_policy.ExportArguments]
    classes += [convert_checkpoint.ConvertArguments, plan_memory.PlanArguments]
    classes += [RunReportArguments]
    classes += [
        kind for program in (evaluate, make_dataset) for kinds in program.ARGUMENTS.values() for kind in kinds
    ]
    known = {option for kind in classes for option in StrictParser((kind,)).complete()._option_string_actions}
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("hf "))  # another project's program
    named = {f"--{name}" for name in re.findall(r"--([a-z]\w+)", text)}
    assert len(named) > 3
    assert not named - known


def test_the_readme_is_short_and_says_first_where_to_go():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert len(lines) <= 200
    assert headings[:3] == ["## Choose your path", "## What ran where", "## Next to other frameworks"]


def test_nothing_is_left_to_fill_in():
    mark = "@" * 2  # what stands where a measured number is still to come
    unfinished = [path.name for path in tracked_text_files() if f"{mark}" in path.read_text(encoding="utf-8")]
    assert not unfinished
