"""What is printed where a plan does not fit: a command that does, with the smallest change, or the part that is too large."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llava_rlhf import plan_memory
from llava_rlhf.memory_planning.commands import command
from llava_rlhf.memory_planning.knobs import knobs_of
from llava_rlhf.memory_planning.plan import GIB
from llava_rlhf.memory_planning.search import Fit, search
from tests.support.tiers import tiered

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"
PPO_7B, PPO_13B = (
    str(SCRIPTS / "7b-v1.5-224/train_rl_model.sh"),
    str(SCRIPTS / "13b-v1.5-336/train_rl_model.sh"),
)
REWARD_13B = str(SCRIPTS / "13b-v1.5-336/train_reward_model.sh")
INIT_7B = str(SCRIPTS / "7b-v1.5-224/initialize_policy_model.sh")
QUICK = [(REWARD_13B, 8, 40)]
DAILY = [(PPO_7B, 8, 48)]
NIGHTLY = [
    *((INIT_7B, 8, 24), (PPO_13B, 1, 48)),
    *((PPO_7B, *machine) for machine in ((8, 24), (8, 40), (1, 24))),
    *((PPO_13B, 1, 24), (REWARD_13B, 1, 24), (REWARD_13B, 8, 24), (INIT_7B, 8, 16)),
]
CASES = tiered([*QUICK, *DAILY, *NIGHTLY], quick=QUICK, daily=DAILY)


def asked(what: str, *flags: str) -> plan_memory.PlanRun:
    return plan_memory.prepare([what, *flags])


def words_of(text: str) -> tuple[dict[str, str], list[str]]:
    """Variables and words of the command in a text."""
    (line,) = [line for line in text.splitlines() if " bash " in f" {line}" or " -m llava_rlhf." in line]
    words = shlex.split(line)
    variables = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    return variables, words


@pytest.mark.slow
@pytest.mark.parametrize(("script", "gpus", "gib"), CASES)
def test_the_printed_command_planned_again_fits(script, gpus, gib, monkeypatch):
    run = asked(script, "--gpus", str(gpus), "--gpu_gib", str(gib))
    ((request, plan),) = run.planned
    assert plan.total > gib * GIB
    text = plan_memory.advice(request, run.asked, run.gpu_bytes)
    variables, words = words_of(text)
    assert words[0] == "bash" and variables["NUM_GPUS"] == str(gpus)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ((again, fitting),) = asked(*words[1:], "--gpu_gib", str(gib)).planned
    assert again.processes == gpus and fitting.total <= gib * GIB
    assert f"takes {fitting.total / GIB:.1f} GiB" in text
    assert len(variables) > 1 and "what changes in results:\n    " in text
    for names in (("rollout_batch_size",), ("step_batch_size",)):
        assert all(again.flags.get(name) == request.flags.get(name) for name in names)
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if batch[0] in request.flags:
        before, after = ([flags[name] for name in batch] for flags in (request.flags, again.flags))
        assert before[0] * before[1] == after[0] * after[1]


@pytest.mark.slow
def test_cheap_changes_come_first_and_no_more_than_is_needed():
    for recipe, changes, gib in (
        ("published", {"rollout_per_device_batch_size": 32}, 41.8),
        # The critic's rows hold the facts, too, and are longer.
        ("modern", {"rollout_per_device_batch_size": 32, "step_per_device_batch_size": 8}, 41.6),
    ):
        ((request, _),) = asked(PPO_7B, "--recipe", recipe).planned
        found = search(request, 48 * GIB)
        assert isinstance(found, Fit) and found.changes == changes
        assert found.plan.total == pytest.approx(gib * GIB, rel=0.01)


@pytest.mark.nightly
def test_advice_that_was_followed_is_never_repeated():
    ((request, _),) = asked(PPO_13B, "--gpus", "1").planned
    offered = [set().union(*knob.levels) for knob in knobs_of(request)]
    assert {"step_per_device_batch_size"} in offered and {"tokens_per_micro_batch"} in offered
    longest = 127 + 576 + 896 + 1024  # of a row that the reward model scores, at least
    least = ["step_per_device_batch_size 1", "reward_model_per_device_batch_size 1", "response_len 1"]
    least += ["rollout_per_device_batch_size 1", f"tokens_per_micro_batch {longest}"]
    flags = [word for text in least for word in f"--{text}".split()]
    run = asked(PPO_13B, "--gpus", "1", *flags, "--gpu_gib", "16")
    ((request, _),) = run.planned
    assert knobs_of(request) == []
    text = plan_memory.advice(request, run.asked, run.gpu_bytes)
    assert "--" not in text and "=" not in text and "the 13B base of policy and reward model takes" in text


@pytest.mark.slow
def test_a_held_part_that_is_too_large_is_named_with_what_fits():
    ((request, plan),) = asked(PPO_13B, "--gpus", "1").planned
    text = search(request, 16 * GIB)
    assert text == "the 13B base of policy and reward model takes 17.6 GiB before any work: name a 7B one"
    assert plan.held_bytes / GIB == pytest.approx(17.6, abs=0.05)
    ((request, _),) = asked(REWARD_13B, "--gpus", "1").planned
    text = search(request, 16 * GIB)  # 10.1 + 4.5 + 2 of CUDA
    assert text.startswith(
        "the 13B reward model takes 10.1 GiB before any work, and the least work 4.5 (update: 1 pairs"
    )
    assert text.endswith(": name a 7B one")
    assert search(request, 4 * GIB).endswith("GiB before any work: no published base is small enough")


@pytest.mark.slow
def test_one_base_in_place_of_two_names_a_reward_model_of_its_own():
    ((request, _),) = asked(PPO_7B, "--gpus", "1").planned
    (change,) = knobs_of(request)[-1].levels[1:]
    assert change["reward_base_model_name"] == request.flags["base_model_name"]
    assert change["reward_model_name_or_path"].endswith("reward_model-on-llava-7b-v1.5-224-sft")
    ((shared, _),) = asked(PPO_13B).planned
    assert not any("reward_base_model_name" in level for knob in knobs_of(shared) for level in knob.levels)


def test_batch_sizes_that_do_not_divide_are_said(capsys):
    run = asked(PPO_7B, "--gpus", "3", "--gpu_gib", "24")
    plan_memory.run(run)
    assert (
        "step_batch_size must be a multiple of processes: 256 is not a multiple of 3"
        in capsys.readouterr().out
    )


def test_flags_of_the_user_are_kept_and_those_that_change_replaced(monkeypatch, tmp_path):
    flags = ("--bits=16", "--seed", "3", "--step_per_device_batch_size", "16", "--bf16", "True")
    changes = {"step_per_device_batch_size": 2, "bits": 4}
    said = command("train_rl_model", flags, changes, 2)
    start = "torchrun --nproc-per-node 2 -m llava_rlhf.train_rl_model "
    assert said == f"{start}--seed 3 --bf16 True --step_per_device_batch_size 2 --bits 4"
    monkeypatch.setenv("BASE_MODEL", "my base")
    said = command(PPO_7B, flags, {**changes, "tokens_per_micro_batch": 9}, None)
    start = "BASE_MODEL='my base' STEP_PER_DEVICE_BATCH_SIZE=2 BITS=4 bash "
    assert said == f"{start}{PPO_7B} --seed 3 --bf16 True --tokens_per_micro_batch 9"
