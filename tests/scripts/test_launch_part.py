"""A size's script shows variables and ends in one call; the launch part stands once, in scripts/launch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.recorded_scripts import (
    LARGE,
    ONE_CARD,
    OTHER_FAMILIES,
    OTHER_SIZES,
    ROOT,
    ScriptRunner,
    copy_scripts,
)
from tests.support.tiers import tiered

EVALUATE = [f"{size}/evaluate.sh" for size in ("7b-v1.5-224", "13b-v1.5-336", "7b-1x24gb", *OTHER_SIZES)]
ABLATION = [
    f"{size}/ablation_{part}.sh" for size in ("7b-v1.5-224", "13b-v1.5-336") for part in ("seed", "arm")
]
TINY = [
    f"tiny/{name}.sh"
    for name in ("train_sft", "train_reward_model", "initialize_policy_model", "train_rl_model")
]
CALLS = {
    "train_sft": 'initialize_policy_model "$@"',
    "evaluate": 'evaluate_benchmark "$@"',
    "ablation_seed": "prepare_seed",
    "ablation_arm": 'train_arm "$@"',
}
# What a size does besides: a tiny reward model has its kind in its name, and the tiny SFT model is merged.
OWN_STEPS = {
    "tiny/train_reward_model.sh": ["set_kind"],
    "tiny/train_rl_model.sh": [
        "set_kind",
        "if",
        "if",
    ],  # what depends on the recipe, and a default with braces in it
    "tiny/train_sft.sh": ["start", "tool"],
}
PREPARING = {"set", "source", ":", "absolute"}  # where things are, and what has to be given
ASSIGNED = re.compile(r'^([A-Z]\w*)=|(?<=")\s([A-Z]\w*)=""', re.MULTILINE)
# So that all of evaluate.sh is run, and that the number of GPUs is none that is there without being asked for.
GIVEN = {
    "BENCHMARK": "mmhal",
    "JUDGE_URL": "http://judge",
    "NUM_GPUS": "2",
    "FACT_REWARD": "mentions",
    "OBJECTIVE": "dpo",
}


def call_of(script: str) -> str:
    """The call in which a script of this name ends."""
    name = Path(script).stem
    return CALLS.get(name, f'{name} "$@"')


def commands(text: str) -> list[str]:
    """The lines of a script without comments; a line that goes on in the next is joined to it."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def steps(text: str) -> list[str]:
    """What a script does once its variables are set."""
    return [line for line in commands(text) if not ASSIGNED.match(line) and line.split()[0] not in PREPARING]


def variables(text: str) -> list[str]:
    """The variables that a script sets; HERE, with which it finds other scripts, is none of a user's."""
    return [first or second for first, second in ASSIGNED.findall(text) if first != "HERE"]


def unread(runner: ScriptRunner, script: str, text: str) -> list[str]:
    """The variables that a script with this text sets for nothing: without them it launches the same."""
    path = runner.checkout / "scripts" / script
    path.write_text(text)
    before = runner.run(script, **GIVEN)
    files = [text]
    if script.startswith("tiny/"):
        files.append((runner.checkout / "scripts" / "tiny" / "common.sh").read_text())
    lines = [line for file in files for line in file.splitlines()]
    found = []
    for name in [name for file in files for name in variables(file)]:
        if any(re.search(rf"\$\{{?{name}\b", line) for line in lines if not line.startswith(f"{name}=")):
            continue  # others are built from it
        path.write_text(text.replace(f"\n{call_of(script)}\n", f"\nunset {name}\n{call_of(script)}\n"))
        done = runner.start(script, **GIVEN)
        if done.returncode == 0 and runner.calls() == before:
            found.append(name)
        else:  # without NUM_PROCESSES there is one; all else has no default there
            assert name == "NUM_PROCESSES" or (done.returncode and name in done.stderr), done.stderr
    return found


@pytest.fixture
def own(tmp_path) -> ScriptRunner:
    """Runs a copy of the scripts that a test may change."""
    return ScriptRunner(copy_scripts(tmp_path / "my own checkout"), tmp_path)


@pytest.mark.parametrize("script", [*LARGE, *ONE_CARD, *OTHER_FAMILIES, *EVALUATE, *ABLATION, *TINY])
def test_below_the_variables_there_is_one_call(script):
    text = (ROOT / "scripts" / script).read_text()
    done, call = steps(text), call_of(script)
    assert done.count(call) == 1 and len(variables(text)) > 2
    assert [step.split()[0] for step in done if step != call] == OWN_STEPS.get(script, [])
    assert script == "tiny/train_sft.sh" or ("--" not in " ".join(done) and commands(text)[-1] == call)


def test_a_second_step_or_a_flag_would_be_seen():
    text = (ROOT / "scripts" / LARGE[0]).read_text()
    assert steps(text) == [call_of(LARGE[0])]
    assert steps(text.replace(' "$@"', ' \\\n    --bits "$BITS" "$@"')) != [call_of(LARGE[0])]
    assert len(steps(text + "launch llava_rlhf.score\n")) == 2


@pytest.mark.parametrize(
    "script",
    tiered(
        [*LARGE, *ONE_CARD, *OTHER_FAMILIES, *EVALUATE, *TINY],
        quick=[LARGE[0], OTHER_FAMILIES[0], EVALUATE[0], TINY[1]],
        daily=[LARGE[-1], ONE_CARD[0], TINY[-1]],
    ),
)
def test_every_variable_is_read_and_none_has_a_default_elsewhere(script, own):
    assert unread(own, script, (ROOT / "scripts" / script).read_text()) == []


def test_a_variable_that_nobody_reads_would_be_seen(own):
    text = (ROOT / "scripts" / LARGE[0]).read_text()
    dead = text.replace("\n# Model\n", '\n# Model\nLORA_DROPOUT="${LORA_DROPOUT:-0.1}"\n')
    assert dead != text and unread(own, LARGE[0], dead) == ["LORA_DROPOUT"]


@pytest.mark.parametrize("script", ABLATION)
def test_variables_of_an_ablation_are_those_of_its_functions(script):
    launch = (ROOT / "scripts" / "launch" / "ablation.sh").read_text()
    names = variables((ROOT / "scripts" / script).read_text())
    assert [name for name in names if not re.search(rf"\$\{{?{name}\b", launch)] == []
