"""Runs of PPO that must be equal, and what must hold at the first step."""

from __future__ import annotations

import shutil

import pytest
import torch

from llava_rlhf.ppo.actor_critic import Responses
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.update import PPOUpdater
from llava_rlhf.runs.metrics import MEANINGS
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.runs.tensor_files import load_tree
from tests.support.ppo_world import (
    assemble,
    largest_difference,
    metrics_of,
    record_experience,
    run_ppo,
    trained,
)
from tests.support.tiers import tiered
from tests.support.tiny_data import ppo_command

ONE_STEP = {"max_steps": 1, "noptepochs": 2, "learning_rate": 3e-4, "samples_per_prompt": 2}


@pytest.fixture(scope="module")
def plain_run(ppo_on_one_base, tmp_path_factory):
    """One PPO step of 8 rollouts, 2 × 2 optimizer steps of 4 rows: what the variants below are compared with."""
    folder = tmp_path_factory.mktemp("ppo") / "plain"
    run_ppo(ppo_on_one_base(folder, **ONE_STEP))
    return folder


def test_every_logged_metric_has_a_sentence_and_every_sentence_a_metric(plain_run):
    (line,) = read_json_lines(plain_run / "metrics.jsonl")
    assert set(line) - {"step"} == set(MEANINGS)


@pytest.mark.parametrize("checkpointing", tiered([False, True], quick=[False]))
def test_before_the_first_update_kl_is_exactly_0_and_the_ratio_exactly_1(
    ppo_on_one_base, tmp_path, monkeypatch, checkpointing
):
    batches = []
    backward = PPOUpdater._backward

    def recording(self, *arguments):
        found = backward(self, *arguments)
        batches.append({name: float(total) for name, total in found["policy"].stats.items()})
        return found

    monkeypatch.setattr(PPOUpdater, "_backward", recording)
    seen = record_experience(monkeypatch)
    # Same micro-batch shape in both halves: 8 rows at once. Both optimizer steps of 8 rows come from the 8 rollouts.
    size = dict.fromkeys(
        ("rollout_per_device_batch_size", "step_batch_size", "step_per_device_batch_size"), 8
    )
    run_ppo(ppo_on_one_base(tmp_path, **{**ONE_STEP, **size}, gradient_checkpointing=checkpointing))
    assert torch.equal(seen[0].log_probs, seen[0].ref_log_probs)
    (metrics,) = metrics_of(tmp_path)
    assert metrics["objective/kl_sum_seq"] == metrics["objective/kl_avg_seq"] == 0.0
    assert metrics["objective/non_score_rewards"] == 0.0
    assert batches[0]["policy/approxkl"] == 0.0 and batches[0]["policy/clipfrac"] == 0.0
    assert batches[1]["policy/approxkl"] > 0.0  # the second pass has moved


@pytest.mark.parametrize(
    "change",
    tiered(
        [
            {"step_per_device_batch_size": 2},  # accumulation of 2 micro-batches
            {"step_per_device_batch_size": 1},
            {"logits_chunk_size": 3},
            {"gradient_checkpointing": True},
            {"reward_model_per_device_batch_size": 3},
            {"rollout_per_device_batch_size": 8},
            {"rollout_per_device_batch_size": 1},
            {"dataloader_num_workers": 1},
        ],
        quick=[str({"step_per_device_batch_size": 1}), str({"rollout_per_device_batch_size": 1})],
        name=str,
    ),
)
def test_settings_of_memory_and_speed_change_no_weight(ppo_on_one_base, plain_run, tmp_path, change):
    run_ppo(ppo_on_one_base(tmp_path, **{**ONE_STEP, **change}))
    assert largest_difference(trained(tmp_path), trained(plain_run)) < 1e-5
    for name, value in metrics_of(plain_run)[0].items():
        assert metrics_of(tmp_path)[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_trimming_a_micro_batch_to_its_longest_answer_changes_no_weight(
    ppo_on_one_base, plain_run, tmp_path, monkeypatch
):
    def untrimmed(self, rows):
        index = torch.tensor(rows)
        return Responses(self.responses[index], self.response_mask[index], self.counted[index])

    lengths = [line["length"] for line in read_json_lines(plain_run / "rollouts" / "000001.jsonl")]
    assert len(set(lengths)) > 1, "answers of one length would leave nothing to trim"
    monkeypatch.setattr(Experience, "rows", untrimmed)
    run_ppo(ppo_on_one_base(tmp_path, **ONE_STEP))
    assert largest_difference(trained(tmp_path), trained(plain_run)) < 1e-5


def test_the_same_base_under_two_paths_gives_the_same_run(
    ppo_on_one_base, plain_run, tiny_base, tiny_data, policy_run, reward_run, tmp_path
):
    copy = tmp_path / "copy of the base"
    shutil.copytree(tiny_base, copy)
    run_ppo(ppo_on_one_base(tmp_path / "run", **ONE_STEP, reward_base_model_name=copy))
    assert largest_difference(trained(tmp_path / "run"), trained(plain_run)) < 1e-6


@pytest.mark.slow
def test_a_reward_model_with_other_images_and_width_changes_no_number_of_the_policy(
    plain_run, tiny_data, tiny_base, policy_run, own_base_reward_run, tmp_path
):
    run_ppo(ppo_command(tiny_data, tiny_base, policy_run, own_base_reward_run, tmp_path, **ONE_STEP))
    alone, other = metrics_of(plain_run)[0], metrics_of(tmp_path)[0]
    for name in (
        "objective/entropies",
        "objective/ref_entropies",
        "response/length_mean",
        "objective/kl_sum_seq",
    ):
        assert other[name] == pytest.approx(alone[name], rel=1e-6), name
    assert other["objective/reward_model"] != pytest.approx(alone["objective/reward_model"], abs=1e-3)
    rollouts = [
        [line["response"] for line in read_json_lines(folder / "rollouts" / "000001.jsonl")]
        for folder in (plain_run, tmp_path)
    ]
    assert rollouts[0] == rollouts[1]


def test_only_policy_value_and_value_head_move(ppo_on_one_base, tmp_path):
    parts = assemble(ppo_on_one_base(tmp_path, **ONE_STEP))
    roles, trainer = parts.roles, parts.trainer
    model = roles.policy.bank.vlm.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reward_head = roles.reward.head.linear.weight.clone()
    trainer.train(iter([parts.batch(rows) for rows in trainer.stream.micro_batches(0, 1, 4)]), 0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {
        name for name in before if ".lora_policy." in name or ".lora_value." in name
    }  # every one of them, and nothing else
    assert torch.equal(roles.reward.head.linear.weight, reward_head)
    assert bool(roles.value.head.linear.weight.any())


@pytest.mark.parametrize("from_reward", [True, False])
def test_where_the_value_model_starts(ppo_on_one_base, tmp_path, from_reward):
    roles = assemble(ppo_on_one_base(tmp_path, init_value_with_reward=from_reward)).roles
    source = roles.reward if from_reward else roles.policy
    weights = source.bank.parameters_of(source.adapter)
    for name, value in roles.value.bank.parameters_of("lora_value").items():
        assert torch.equal(value, weights[name.replace("lora_value", source.adapter)])
    assert not roles.value.head.linear.weight.any() and not roles.value.head.linear.bias.any()


def test_the_adaptive_controller_rests_while_the_policy_does(ppo_on_one_base, tmp_path):
    """A KL of 0 says nothing of the weight where only the critic learns."""
    adaptive = {"kl_controller": "adaptive", "kl_horizon": 40}
    run_ppo(ppo_on_one_base(tmp_path, value_warmup_steps=2, max_steps=4, **adaptive))
    coefficients = [line["objective/kl_coef"] for line in metrics_of(tmp_path)]
    assert coefficients[:3] == [0.1, 0.1, 0.1] and coefficients[3] != 0.1


def test_the_adaptive_controller_follows_the_kl_and_is_saved(ppo_on_one_base, tmp_path):
    run_ppo(ppo_on_one_base(tmp_path / "fixed"))
    second = metrics_of(tmp_path / "fixed")[1]["objective/kl_sum_seq"]
    # The first step has KL 0 whatever the target, so the second one has this KL: 10 % above the target.
    settings = {"kl_controller": "adaptive", "kl_target": second / 1.1, "kl_horizon": 40, "max_steps": 3}
    run = tmp_path / "adaptive"
    run_ppo(ppo_on_one_base(run, **settings))
    # 8 rollouts a step: 0.1 · (1 − 0.2 · 8 / 40), then · (1 + 0.1 · 8 / 40).
    used = [metrics["objective/kl_coef"] for metrics in metrics_of(run)]
    assert used == pytest.approx([0.1, 0.096, 0.096 * 1.02], rel=1e-5)
    parts = assemble(ppo_on_one_base(tmp_path / "again", **settings))
    parts.trainer.state.load(run / "checkpoint-2")
    assert parts.trainer.kl_controller.value == used[2]


@pytest.fixture(scope="module")
def accumulated_run(ppo_on_one_base, tmp_path_factory):
    """An epoch: its second step takes the last prompts. Two optimizer steps a PPO step, each of two micro-batches."""
    folder = tmp_path_factory.mktemp("ppo") / "accumulated"
    schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "total_epochs": 1, "max_steps": -1}
    run_ppo(ppo_on_one_base(folder, step_per_device_batch_size=2, learning_rate=0.01, **schedule))
    return folder


def optimizer_of(folder, step):
    return load_tree(folder / f"checkpoint-{step}" / "optimizer.safetensors")["optimizer"]


def test_gradients_are_accumulated_on_the_last_prompts_too(accumulated_run):
    for step in (1, 2):
        taken = {float(entry["step"]) for entry in optimizer_of(accumulated_run, step)["state"].values()}
        assert taken == {2.0 * step}


def test_the_logged_learning_rate_is_the_one_the_step_was_taken_at(accumulated_run):
    logged = [metrics["objective/lr"] for metrics in metrics_of(accumulated_run)]
    used = [optimizer_of(accumulated_run, step)["param_groups"][0]["lr"] for step in (1, 2)]
    assert logged == used == pytest.approx([0.005, 0.01])  # 1/2 and 2/2 of the warm-up
