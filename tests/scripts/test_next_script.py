"""After a run a script says which one comes next, as a command that can be pasted."""

from __future__ import annotations

import shlex

import pytest

from tests.support.recorded_scripts import ROOT, ScriptRunner

NEXT = {
    "train_reward_model": ("initialize_policy_model", None),
    "initialize_policy_model": ("train_rl_model", "POLICY_MODEL"),
    "train_rl_model": ("evaluate", "ADAPTER"),
}
CASES = [(size, name) for size in ("tiny", "7b-1x24gb", "13b-v1.5-336") for name in NEXT]


@pytest.fixture
def runner(tmp_path):
    return ScriptRunner(ROOT, tmp_path)


def said(runner, script: str, **variables: str) -> list[str]:
    done = runner.start(script, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("size", "name"), CASES)
def test_the_next_script_gets_the_result(size, name, runner, tmp_path):
    following, variable = NEXT[name]
    (line,) = said(runner, f"{size}/{name}.sh", OUTPUT_DIR="my run")
    *words, shell, script = shlex.split(line.removeprefix("next: "))
    assert (shell, script) == ("bash", str(ROOT / "scripts" / size / f"{following}.sh"))
    assert words == ([f"{variable}={runner.cwd}/my run"] if variable else [])


def test_the_next_script_gets_the_same_paths_and_no_other_settings(runner, tmp_path):
    given = {"RUN_DIR": str(tmp_path / "a run"), "NUM_PROCESSES": "2", "MAX_STEPS": "3"}
    (line,) = said(runner, "tiny/train_reward_model.sh", **given)
    words = shlex.split(line.removeprefix("next: "))
    assert words[:-2] == [f"RUN_DIR={tmp_path}/a run", "NUM_PROCESSES=2"]


@pytest.mark.parametrize(("size", "limits"), [("qwen3-vl-8b", ["MAX_PIXELS=409600"]), ("7b-1x24gb", [])])
def test_the_next_script_gets_the_limits_of_a_picture(size, limits, runner):
    """Else what was trained with them would refuse to go on."""
    for name, (_, variable) in NEXT.items():
        (line,) = said(runner, f"{size}/{name}.sh", MAX_PIXELS="409600", OUTPUT_DIR="run")
        words = shlex.split(line.removeprefix("next: "))[:-2]
        assert words == limits + ([f"{variable}={runner.cwd}/run"] if variable else [])


@pytest.mark.parametrize(
    ("name", "given", "kept", "missing"),
    [
        ("train_reward_model", ["PREFERENCES", "CAPTIONS", "IMAGE_FOLDER"], ["IMAGE_FOLDER"], " DIALOGUES"),
        ("train_reward_model", ["BASE_MODEL"], [], " BASE_MODEL DIALOGUES IMAGE_FOLDER"),
        ("initialize_policy_model", ["DIALOGUES"], [], " PROMPTS CAPTIONS IMAGE_FOLDER"),
        (
            "initialize_policy_model",
            ["DIALOGUES", "PROMPTS", "CAPTIONS", "IMAGE_FOLDER"],
            ["PROMPTS", "CAPTIONS", "IMAGE_FOLDER"],
            "",
        ),
    ],
)
def test_with_own_data_the_line_names_what_is_missing(name, given, kept, missing, runner):
    """The defaults of the next script are other data."""
    (line,) = said(runner, f"tiny/{name}.sh", **{variable: f"/my/{variable}" for variable in given})
    following, variable = NEXT[name]
    command, _, named = line.partition(", with your own")
    *words, shell, script = shlex.split(command.removeprefix("next: "))
    assert named == missing and (shell, script) == (
        "bash",
        str(ROOT / "scripts" / "tiny" / f"{following}.sh"),
    )
    words = [word for word in words if not word.startswith(f"{variable}=")]
    assert words == [f"{kind}=/my/{kind}" for kind in kept]


@pytest.mark.parametrize("size", ["tiny", "7b-1x24gb"])
def test_own_data_is_not_evaluated_by_the_script_of_the_benchmarks(size, runner):
    (line,) = said(runner, f"{size}/train_rl_model.sh", IMAGE_FOLDER="/my/pictures")
    assert line == f"next: evaluation on data of your own, see step 8 of {ROOT}/docs/walkthrough.md"


def test_no_next_script(runner, tmp_path):
    """In a pipeline, in a dry run, after a failure, and where the size has none."""
    script = "tiny/train_rl_model.sh"
    assert said(runner, script, PART_OF="run_all") == []
    assert not any("next:" in line for line in said(runner, script, DRY_RUN="1"))
    assert runner.start(script, FAIL_ON="train_rl_model").stdout == ""
    assert said(runner, "tiny/train_sft.sh", RUN_DIR=str(tmp_path)) == []
