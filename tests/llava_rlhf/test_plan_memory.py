"""`plan_memory` on published scripts and on flags, and the plan that every program prints when it starts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.memory_tables import SCRIPTS, full_table, plans, recipe_table
from llava_rlhf import initialize_policy_model, plan_memory, train_reward_model, train_rl_model
from llava_rlhf.memory_planning.names import PPO
from llava_rlhf.memory_planning.plan import CONTEXT, GIB, MemoryPlan, Part, Phase, format_plan
from llava_rlhf.memory_planning.programs import announce_plan
from llava_rlhf.memory_planning.settings import base_of
from tests.support.reward_models import HEAD, moved, with_mlp_head
from tests.support.tiny_data import changed, policy_command, ppo_command, reward_command

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["train_rl_model", "--shape", "7b-v1.5-224", "--bf16", "True"]

# These cover all programs, both bases and both ways to share gradients; the others cost seconds more.
PLANNED = ("reward model, 13B", "policy init (SFT), 7B", "PPO, 7B with the 13B reward model")


def planned(*argv: str) -> MemoryPlan:
    ((_, plan),) = plan_memory.prepare(argv).planned
    return plan


@pytest.fixture(scope="module")
def published():
    return list(plans(PLANNED))


@pytest.mark.slow
def test_the_tables_of_the_documents_are_what_the_planner_says(published):
    for document, table in (("docs/recipe.md", recipe_table), ("docs/memory.md", full_table)):
        there = (ROOT / document).read_text(encoding="utf-8").splitlines()
        lines = table(published).splitlines()
        assert len(lines) > 2 + len(PLANNED) - 1
        assert not [line for line in lines if line not in there], document


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_bases_of_every_published_script_are_known(script):
    (request,), _ = plan_memory.requests([str(ROOT / "scripts" / script)])
    assert request.processes == 8
    names = [request.flags.get(name) for name in ("base_model_name", "model_name_or_path")]
    (path,) = filter(None, names)
    base = base_of(request.flags, path, None)
    assert (base.layers, base.positions) == {"7b": (32, 256), "13": (40, 576)}[script[:2]]
    assert base.dtype == torch.bfloat16


@pytest.mark.nightly
def test_published_runs_are_planned_without_weights(published):
    assert [(name, gpus) for name, gpus, _ in published] == [
        (name, gpus) for name in PLANNED for gpus in (1, 8)
    ]
    for name, gpus, plan in published:
        weights = {
            "reward model, 13B": 24.8,
            "policy init (SFT), 7B": 13.1,
            "PPO, 7B with the 13B reward model": 11.4,
        }[name]
        assert weights * GIB < plan.held_bytes < plan.peak, (name, gpus)
        assert plan.total == plan.peak + CONTEXT


@pytest.mark.slow
def test_the_base_of_13b_in_bf16_takes_two_bytes_a_parameter(published):
    # 13.35 · 10⁹: 13.016 of Vicuna with its 64 added rows, 0.304 of the tower, 0.031 of the projector.
    parts = next(plan for name, _, plan in published if name == "reward model, 13B").held
    base = sum(part.size for part in parts if part.name.startswith("13b-v1.5-336: "))
    assert base / 2 == pytest.approx(13.35e9, rel=0.001)


@pytest.mark.nightly
def test_merging_and_token_budgets_are_seen():
    before = planned(*SMALL)
    after = planned(*SMALL, "--merge_adapter_for_sampling", "False", "--tokens_per_micro_batch", "8192")

    def phase(plan: MemoryPlan, words: str) -> int:
        return max(phase.size for phase in plan.phases if words in phase.name)

    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008) * 2
    saved = phase(before, "sampling") - phase(after, "sampling")
    assert saved == pytest.approx(linear, rel=0.03)  # less the adapter's copy in bfloat16
    for words in ("scoring", "update, policy"):
        assert phase(after, words) < 0.5 * phase(before, words)
    # In a single micro-batch no gradients are there before: rank 64 on 7B, and the value head.
    single = planned(*SMALL, "--step_batch_size", "16")
    gradients = 2 * 32 * 64 * (4 * 2 * 4096 + 3 * (4096 + 11008)) + 4096 + 1
    assert phase(before, "update, policy") - phase(single, "update, policy") == 4 * gradients


@pytest.mark.slow
def test_without_a_critic_nothing_is_kept_or_passed_for_one():
    before = planned(*SMALL)
    after = planned(*SMALL, "--advantage_estimator", "rloo", "--samples_per_prompt", "4")
    value = 2 * 32 * 64 * (4 * 2 * 4096 + 3 * (4096 + 11008)) // 2 + 4096 + 1  # rank 64 on 7B, and the head

    def part(plan: MemoryPlan, words: str) -> int:
        return sum(part.size for part in plan.held if words in part.name)

    assert part(before, "adapter") - part(after, "adapter") == 4 * value
    # What an engine says of each token of 512 answers: float32.
    served = planned(*SMALL, "--rollout_engine", "vllm", "--vllm_servers", "http://127.0.0.1:8000")
    numbers = [part(plan, "tokens and numbers") for plan in (served, before)]
    assert numbers[0] - numbers[1] == 512 * 768 * 4
    assert part(before, "moments") - part(after, "moments") == 2 * 4 * value
    assert part(before, "tokens and numbers") - part(after, "tokens and numbers") == 512 * 768 * 8
    assert sorted({phase.name for phase in before.phases} - {phase.name for phase in after.phases}) == [
        phase.name for phase in before.phases if "value" in phase.name
    ]
    assert after.total < before.total


@pytest.mark.slow
def test_an_ensemble_holds_every_member_and_scores_with_each(tiny_base, tiny_data, reward_run, tmp_path):
    folders = [moved(reward_run, tmp_path / "moved", seed=1), with_mlp_head(reward_run, tmp_path / "mlp")]

    def plan(*members: Path) -> MemoryPlan:
        argv = ppo_command(
            tiny_data, tiny_base, tmp_path, reward_run, tmp_path, more_reward_models=members or None
        )
        return planned("train_rl_model", *argv)

    alone, three = plan(), plan(*folders)
    names = [phase.name.split(":")[0] for phase in three.phases if "reward" in phase.name]
    assert names == ["scoring, reward", "scoring, reward 1", "scoring, reward 2"]
    files = [folder / name for folder in folders for name in ("lora_reward/adapter_model.safetensors", HEAD)]
    members = sum(tensor.nbytes for file in files for tensor in load_file(file).values())
    assert three.held_bytes - alone.held_bytes == members
    linear, other = (phase.size for phase in three.phases if phase.name.startswith("scoring, reward "))
    assert linear == next(phase.size for phase in alone.phases if phase.name.startswith("scoring, reward:"))
    assert other >= linear


@pytest.mark.slow
def test_a_critic_that_sees_facts_reads_rows_as_long_as_those_that_are_scored(tiny_base):
    tiny = [
        "train_rl_model",
        "--base_model_name",
        str(tiny_base),
        "--use_cpu",
        "True",
        "--response_len",
        "16",
        "--recipe",
        "published",
    ]
    lengths = ["--query_len", "32", "--model_max_length", "128"]

    def rows(*more: str) -> list[str]:
        plan = planned(*tiny, *lengths, *more)
        return [re.sub(r"\d+ rows of", "rows of", phase.name) for phase in plan.phases]

    image = 4  # positions
    assert f"scoring, value: rows of {32 + 16 + image - 1} positions" in rows()
    facts = rows("--value_sees_facts", "True")
    assert f"scoring, policy and reference: rows of {32 + 16 + image - 1} positions" in facts
    for line in ("scoring, value: rows of", "scoring, reward: rows of", "update, value: rows of up to"):
        assert f"{line} {128 + image - 1} positions" in facts, line


def test_asking_a_script_starts_and_deletes_nothing(monkeypatch, tiny_base, tmp_path):
    (tmp_path / "sft" / "merged").mkdir(parents=True)
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.setenv("BASE_MODEL", str(tiny_base))
    (request,), _ = plan_memory.requests([str(ROOT / "scripts/tiny/train_sft.sh"), "--lora_r", "3"])
    assert (request.program, request.flags["lora_r"], request.processes) == ("initialize_policy_model", 3, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["sft", "merged"]


def test_the_table_names_the_peak_and_the_gpu():
    plan = MemoryPlan("it", (Part("base", 3 * GIB),), (Phase("one", GIB), Phase("two", 2 * GIB)), CONTEXT)
    lines = format_plan(plan).splitlines()
    assert [line.endswith("<- peak") for line in lines if line.strip().startswith("+")] == [False, True]
    assert lines[-3].split()[-1] == "5.00"
    assert lines[-1].split() == ["a", "GPU", "in", "all", "7.00"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train_rl_model", "--tokens_per_microbatch", "5"], "closest flag is --tokens_per_micro_batch"),
        (["train_rl_model", "--shape", "8b"], "--shape 8b"),
        (["train_rl_model", "--gpus", "-1"], "--gpus -1"),
        ([str(ROOT / "scripts/run_tests.sh")], "does not start one of train_reward_model"),
        (
            [str(ROOT / "scripts/7b-1x24gb/evaluate.sh")],
            "the program itself (evaluation: docs/one_24gb_card.md)",
        ),
        (["train_rl_m"], "train_rl_m is no file"),
        (["train_rl_model", "--base_model_name", "nowhere"], "nowhere is no directory"),
        (["train_rl_model", "--shape", "7b-v1.5-224", "--response_len", "0"], "--response_len 0"),
        (["--shape", "7b-v1.5-224"], "first name a script"),
        ([*SMALL, "--judge_shape", "13b-v1.5-336"], "--judge_shape is now called --reward_shape"),
    ],
)
def test_what_is_wrong_is_named(argv, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_memory.prepare(argv)


@pytest.mark.slow
def test_a_plan_that_does_not_fit_says_what_makes_it_smaller(capsys):
    prepared = plan_memory.prepare([*SMALL, "--gpu_gib", "24"])
    plan_memory.run(prepared)
    text = capsys.readouterr().out
    assert "  does NOT fit in 24 GiB\n  this takes " in text
    (line,) = [
        line for line in text.splitlines() if line.startswith("  python -m llava_rlhf.train_rl_model ")
    ]
    assert "--rollout_per_device_batch_size" in line and "--step_per_device_batch_size" in line
    plan_memory.run(replace(prepared, gpu_bytes=500 * GIB))
    assert "  fits in 500 GiB" in capsys.readouterr().out


@pytest.mark.slow
def test_every_program_prints_its_plan_before_it_trains(tiny_base, tiny_data, tmp_path, capsys):
    reward, policy = tmp_path / "reward", tmp_path / "policy"
    one = {"max_steps": 1}
    programs = [
        (train_reward_model, reward_command(tiny_data, tiny_base, reward, **one)),
        (initialize_policy_model, policy_command(tiny_data, tiny_base, policy, **one)),
        (train_rl_model, ppo_command(tiny_data, tiny_base, policy, reward, tmp_path / "ppo", **one)),
    ]
    for program, argv in programs:
        program.run(program.prepare(argv))
        text = capsys.readouterr().out
        title = (
            f"Memory of {program.__name__.split('.')[-1]}, {tiny_base.name}, estimated, a process: tensors "
        )
        assert text.count(title) == 1
        assert text.index(title) < text.index("\n  the most in: ") < text.index("\nstep 1/1 ")


def test_a_plan_that_fails_stops_no_run_and_draws_no_random_number(
    tiny_base, tiny_data, tmp_path, caplog, capsys
):
    argv = reward_command(tiny_data, tiny_base, tmp_path)
    prepared = train_reward_model.prepare(argv)
    capsys.readouterr()
    before = torch.get_rng_state()
    settings = (prepared.training, prepared.data, prepared.facts, prepared.model, prepared.run, prepared.head)
    announce_plan("train_reward_model", settings, prepared.train_set, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert "\n  the most in: update: 4 pairs" in capsys.readouterr().out
    announce_plan(PPO, settings, prepared.train_set, 1)  # not its settings
    assert "memory is not planned for this run (" in caplog.text and "Traceback" not in caplog.text
    (warning,) = (record for record in caplog.records if record.name.endswith("memory_planning.programs"))
    assert warning.exc_info is None and "\n" not in warning.getMessage()


def without_images(rows: list[dict]) -> None:
    """Rows of text alone, with captions of their own where a reward model wants some."""
    for row in rows:
        row.pop("image", None)
        for message in row["conversations"]:
            message["value"] = message["value"].replace("<image>\n", "")


@pytest.mark.nightly
def test_rows_of_text_alone_are_planned_and_trained_on(tiny_base, tiny_data, tmp_path, capsys, caplog):
    data = replace(
        tiny_data,
        **{
            name: changed(getattr(tiny_data, name), f"text {name}.json", without_images)
            for name in ("preferences", "dialogues", "prompts")
        },
    )
    reward, policy = tmp_path / "reward", tmp_path / "policy"
    one = {"max_steps": 1, "verbose": True}
    for program, argv in [
        (train_reward_model, reward_command(data, tiny_base, reward, **one)),
        (initialize_policy_model, policy_command(data, tiny_base, policy, **one)),
        (train_rl_model, ppo_command(data, tiny_base, policy, reward, tmp_path / "ppo", **one)),
    ]:
        program.run(program.prepare(argv))
        text = capsys.readouterr().out
        assert "text tokens and 0 image(s)" in text and "peak of tensors" in text, program
        assert "Traceback" not in text and "not planned" not in caplog.text
        encoding = [line for line in text.splitlines() if line.startswith("  + image encoding")]
        assert encoding and all(line.split("  <-")[0].endswith(" 0.00") for line in encoding), encoding
