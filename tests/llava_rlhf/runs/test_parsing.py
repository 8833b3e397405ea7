"""What a user sees of the command line: help, and errors that say what to do."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.evaluation.arguments import AnswerArguments
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.batch_plan import plan_batches
from llava_rlhf.runs.arguments import (
    AdapterArguments,
    DataArguments,
    FactArguments,
    ModelArguments,
    RunArguments,
)
from llava_rlhf.runs.parsing import ArgumentError, StrictParser, run_program
from llava_rlhf.runs.save_errors import SaveError
from llava_rlhf.runs.stopping import EngineError
from tests.support.ppo_settings import ppo_arguments
from tests.support.recorded_scripts import ROOT
from tests.support.tiers import tiered

PROGRAMS = {
    "train_reward_model": train_reward_model,
    "initialize_policy_model": initialize_policy_model,
    "train_rl_model": train_rl_model,
}
REQUIRED_FOR_PPO = (
    "base_model_name policy_model_name_or_path reward_model_name_or_path output_dir dataset_path image_folder "
    "reward_prompt_file"
).split()


@pytest.fixture
def required(tmp_path) -> list[str]:
    """The flags that PPO can't do without, with files that exist."""
    file = tmp_path / "file"
    file.touch()
    values = dict.fromkeys(REQUIRED_FOR_PPO, "somewhere")
    values |= {"dataset_path": str(file), "reward_prompt_file": str(file), "image_folder": str(tmp_path)}
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def ppo_settings(*argv: str) -> dict[str, object]:
    groups = StrictParser(train_rl_model.ARGUMENTS).parse(argv)
    return {name: value for group in groups for name, value in vars(group).items()}


@pytest.mark.parametrize(
    ("program", "wrong", "closest"),
    [
        ("train_reward_model", "--lora_rr", "--lora_r"),
        ("train_reward_model", "--learnig_rate", "--learning_rate"),
        ("initialize_policy_model", "--image_foldr", "--image_folder"),
        ("initialize_policy_model", "--model_path", "--model_name_or_path"),
        ("train_rl_model", "--klcoef", "--kl_coef"),
        ("train_rl_model", "--rollout_batchsize", "--rollout_batch_size"),
    ],
)
def test_an_unknown_flag_names_the_closest(program, wrong, closest):
    parser = StrictParser(PROGRAMS[program].ARGUMENTS)
    for words in ([wrong, "1"], [f"{wrong}=1"]):
        with pytest.raises(ArgumentError) as caught:
            parser.parse(words)
        assert str(caught.value) == f"unknown flag {wrong}; the closest flag is {closest}"


def test_a_flag_that_resembles_nothing_gets_no_hint(required):
    with pytest.raises(ArgumentError, match=r"^unknown flag --zzzzqqqq$"):
        ppo_settings(*required, "--zzzzqqqq", "1")


def test_flags_that_are_not_alike_are_no_hint():
    with pytest.raises(ArgumentError, match=r"^unknown flag --summary_only$"):
        StrictParser((AnswerArguments, DataArguments, ModelArguments)).parse(["--summary_only", "True"])


def test_an_abbreviation_is_refused(required):
    with pytest.raises(
        ArgumentError, match="unknown flag --learning_rat; the closest flag is --learning_rate"
    ):
        ppo_settings(*required, "--learning_rat", "1e-4")


@pytest.mark.parametrize("missing", REQUIRED_FOR_PPO)
def test_a_missing_required_flag_is_named(missing, required):
    at = required.index(f"--{missing}")
    with pytest.raises(ArgumentError, match=f"required: .*--{missing}"):
        ppo_settings(*required[:at], *required[at + 2 :])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--noptepochs", "many"], "noptepochs.*invalid int value: 'many'"),
        (["--kl_coef", "0,1"], "kl_coef.*invalid float value: '0,1'"),
        (["--bf16", "maybe"], "bf16.*maybe"),
        (["--version", "v2"], r"version.*'v2'.*tiny.*v1"),
        (["--kl_estimator", "k4"], "kl_estimator.*'?k4'?.*k1_clamped"),
        (["--seed"], "seed.*expected one argument"),
        (["7"], "unexpected value on the command line: 7"),
    ],
)
def test_a_malformed_value_names_its_flag(words, message, required):
    with pytest.raises(ArgumentError, match=message):
        ppo_settings(*required, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bits", "5"], "--bits 5: choose 4, 8, 16 or 32"),
        (["--temperature", "0"], "--temperature 0.0"),
        (["--noptepochs", "0"], "--noptepochs 0: must be at least 1"),
        (["--bf16", "True", "--fp16", "True"], "--bf16 and --fp16 exclude each other"),
        (["--dataset_path", "/no/such file"], "--dataset_path /no/such file: no such file"),
        (["--image_folder", "/no/such"], "--image_folder /no/such: no such directory"),
        (["--reward_prompt_file", "/no/such"], "--reward_prompt_file /no/such: no such file"),
    ],
)
def test_an_impossible_value_is_refused(words, message, required):
    with pytest.raises(ValueError, match=message):
        ppo_settings(*required, *words)


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2E-5", 2e-5), ("0.0003", 3e-4), ("1", 1.0)])
def test_learning_rates_are_numbers(text, value, required):
    got = ppo_settings(*required, "--learning_rate", text)["learning_rate"]
    assert type(got) is float and got == value


@pytest.mark.parametrize(
    ("words", "whiten", "facts"),
    [
        ([], False, True),
        (["--whiten_rewards", "--facts"], True, True),
        (["--whiten_rewards", "True", "--facts", "False"], True, False),
        (["--whiten_rewards=false", "--facts=no"], False, False),
        (["--no_facts"], False, False),
    ],
)
def test_forms_of_a_switch(words, whiten, facts, required):
    settings = ppo_settings(*required, *words)
    assert (settings["whiten_rewards"], settings["facts"]) == (whiten, facts)


def test_a_value_may_be_negative_and_contain_spaces(required):
    settings = ppo_settings(*required, "--penalty_reward_value", "-8.0", "--output_dir", "my runs/--x")
    assert (settings["penalty_reward_value"], settings["output_dir"]) == (-8.0, "my runs/--x")


def test_batch_arithmetic_names_every_number():
    ppo = ppo_arguments(
        rollout_batch_size=500,
        rollout_per_device_batch_size=32,
        step_batch_size=120,
        step_per_device_batch_size=16,
    )
    with pytest.raises(ValueError) as caught:
        plan_batches(ppo, world_size=8, n_prompts=300)
    message = str(caught.value)
    for text in (
        "rollout_batch_size 500, rollout_per_device_batch_size 32, step_batch_size 120, processes 8",
        "500 is not a multiple of 256",  # 8 × 32
        "500 is not a multiple of 120",
        "rollout_batch_size 500 needs as many prompts; the data has 300",
    ):
        assert text in message


def test_batch_plan_by_hand():
    ppo = ppo_arguments(
        rollout_batch_size=64,
        rollout_per_device_batch_size=8,
        step_batch_size=32,
        step_per_device_batch_size=4,
        total_epochs=3,
    )
    plan = plan_batches(ppo, world_size=2, n_prompts=200)
    # 64 / 2 = 32 rows a process in 32 / 8 = 4 passes; 64 / 32 = 2 steps; 32 / (2 × 4) = 4; (200 // 64 = 3) × 3 epochs = 9
    assert (plan.rollouts, plan.rollout_micro_batches) == (32, 4)
    assert (plan.optimizer_steps, plan.ppo_steps) == (2, 9)


def help_text(capsys, classes, flag: str = "--help") -> str:
    with pytest.raises(SystemExit) as caught:
        StrictParser(classes).parse([flag])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_readable_and_shows_every_setting_of_ours(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    classes = PROGRAMS[program].ARGUMENTS
    text = help_text(capsys, classes)
    for cls in classes:
        assert f"\n{cls._argument_group_name}" in text
        assert [name for name in cls.__dataclass_fields__ if f"--{name} " not in text] == []
    settings = sum(len(cls.__dataclass_fields__) for cls in classes)
    assert len(text.splitlines()) < 2.4 * settings  # two lines each, and the headings
    assert "--ddp_backend" not in text and "--no_" not in text


def test_help_of_a_trainer_program_shows_the_flags_of_its_scripts(capsys):
    """And `--help_all` shows the rest."""
    text = help_text(capsys, initialize_policy_model.ARGUMENTS)
    scripts = (ROOT / "scripts" / "launch" / "training.sh").read_text()
    # One function calls the other.
    names = r"^(?:shared_flags|trainer_flags|initialize_policy_model)"
    functions = re.findall(rf"{names}\(\) \{{\n(.*?)^\}}", scripts, re.DOTALL | re.MULTILINE)
    used = {flag for function in functions for flag in re.findall(r"[ (](--\w+) ", function)}
    assert len(functions) == 3
    assert len(used) > 20 and [flag for flag in sorted(used) if f"{flag} " not in text] == []
    assert "--ddp_backend " in help_text(capsys, initialize_policy_model.ARGUMENTS, "--help_all")


@pytest.mark.parametrize(
    "module",
    [
        *PROGRAMS,
        *("answer_prompts", "export_policy"),
        *("tiny_world.make_world", "tiny_world.label_preferences"),
    ],
)
def test_every_program_explains_itself(module, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that argparse does not break the description at a hyphen
    program = importlib.import_module(f"llava_rlhf.{module}")
    with pytest.raises(SystemExit) as caught:
        program.prepare(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: ") and " ".join(program.__doc__.split("\n")[0].split()) in text


@pytest.mark.parametrize(
    "classes",
    [(AnswerArguments, DataArguments), (RewardArguments,), (FactArguments, ModelArguments, RunArguments)],
)
def test_every_setting_has_a_help_text(classes):
    for cls in classes:
        for name, item in cls.__dataclass_fields__.items():
            assert len(item.metadata.get("help", "").split()) >= 2, f"{cls.__name__}.{name}"


@pytest.mark.parametrize(
    "module",
    tiered(
        ["train_reward_model", "train_rl_model", "tiny_world.make_world"],
        quick=["train_rl_model", "tiny_world.make_world"],
    ),
)
def test_programs_print_user_errors_without_a_traceback(module):
    done = subprocess.run(
        [sys.executable, "-m", f"llava_rlhf.{module}", "--output_dri", "x"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error: unknown flag --output_dri; the closest flag is --output_dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [({"lora_r": 0}, "--lora_r 0"), ({"lora_modules": ["q_proj", "fc1"]}, "--lora_modules: unknown fc1")],
)
def test_adapter_shapes_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AdapterArguments(**values)


@pytest.mark.parametrize("kind", [SaveError, EngineError])
def test_what_a_user_can_mend_while_it_runs_is_one_message(kind, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])

    def run(prepared):
        raise kind("the server is away")

    with pytest.raises(SystemExit) as end:
        run_program(lambda argv: "ready", run)
    assert end.value.code == 1 and capsys.readouterr().err == "error: the server is away\n"
