"""Batch arithmetic of PPO, and the values of its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.batch_plan import fit_batches, plan_batches
from tests.support.ppo_settings import ppo_arguments


def test_the_published_numbers_on_eight_processes():
    plan = plan_batches(ppo_arguments(), world_size=8, n_prompts=72_000)
    # 512 / 8 = 64 a process in 2 passes of 32; 2 optimizer steps of 256; ⌊72000 / 512⌋ = 140, × 4 epochs.
    assert (plan.rollouts, plan.rollout_micro_batches) == (64, 2)
    assert (plan.optimizer_steps, plan.ppo_steps) == (2, 560)


def test_max_steps_is_never_cut():
    assert plan_batches(ppo_arguments(max_steps=3), 1, 512).ppo_steps == 3
    assert plan_batches(ppo_arguments(max_steps=99), 1, 512).ppo_steps == 99  # total_epochs alone: 4
    assert plan_batches(ppo_arguments(), 1, 512).ppo_steps == 4


# rollout_batch_size 64, rollout_per_device_batch_size 16 (64 / 4 or 64 / (2 × 2)), step_batch_size 32
SIZES = {"rollout_batch_size": 64, "rollout_per_device_batch_size": 16, "step_batch_size": 32}


@pytest.mark.parametrize(
    ("world_size", "n_prompts", "lowered"),
    [
        (1, 64, None),
        (1, 63, (60, 30, 15)),  # 62 = 2 × 31 would be sampled two by two
        (1, 24, (24, 12, 12)),
        (1, 21, (20, 10, 10)),
        (1, 3, (2, 1, 2)),
        (1, 2, (2, 1, 2)),
        (1, 1, (1, 1, 1)),  # no two optimizer steps
        (2, 21, (20, 10, 10)),
        (2, 3, (2, 2, 1)),
        (4, 21, (16, 8, 4)),
        (4, 4, (4, 4, 1)),
    ],
)
def test_sizes_are_lowered_to_the_prompts_there_are(world_size, n_prompts, lowered):
    ppo = ppo_arguments(**SIZES)
    names = ("rollout_batch_size", "step_batch_size", "rollout_per_device_batch_size")
    found = fit_batches(ppo, world_size, n_prompts)
    assert found == ({} if lowered is None else dict(zip(names, lowered, strict=True)))
    plan_batches(replace(ppo, **found), world_size, n_prompts)  # they divide, and fit


def test_what_is_lowered_is_nearly_all_and_keeps_the_optimizer_steps():
    for world_size in (1, 2, 4):
        for n_prompts in range(2 * world_size, 64):
            found = fit_batches(ppo_arguments(**SIZES), world_size, n_prompts)
            assert found["rollout_batch_size"] == 2 * found["step_batch_size"]
            assert n_prompts - 6 * world_size < found["rollout_batch_size"] <= n_prompts


def test_groups_take_fewer_prompts():
    plan = plan_batches(ppo_arguments(**SIZES), 2, n_prompts=48, samples_per_prompt=4)
    # 64 answers are to 16 prompts: ⌊48 / 16⌋ = 3 steps, × 4 epochs.
    assert (plan.rollouts, plan.ppo_steps) == (32, 12)
    with pytest.raises(ValueError, match=r"rollout_batch_size 64 needs 16 \(samples_per_prompt 4\) prompts"):
        plan_batches(ppo_arguments(**SIZES), 2, n_prompts=15, samples_per_prompt=4)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 8])
def test_what_is_lowered_keeps_groups_whole(samples):
    ppo = ppo_arguments(rollout_batch_size=96, rollout_per_device_batch_size=4, step_batch_size=48)
    for world_size in (1, 2, 4):
        for n_prompts in range(world_size, 96 // samples):
            found = fit_batches(ppo, world_size, n_prompts, samples)
            assert found["rollout_batch_size"] % samples == 0
            assert 0 < found["rollout_batch_size"] <= n_prompts * samples
            plan_batches(replace(ppo, **found), world_size, n_prompts, samples)
        assert fit_batches(ppo, world_size, -(-96 // samples), samples) == {}


def test_sizes_that_do_not_divide_are_refused_and_not_lowered():
    with pytest.raises(ValueError, match="512 is not a multiple of 384"):
        fit_batches(ppo_arguments(step_batch_size=384), 1, 10)


@pytest.mark.parametrize(
    ("changes", "world_size", "n_prompts", "message"),
    [
        ({"rollout_per_device_batch_size": 48}, 8, 1000, "512 is not a multiple of 384"),
        (
            {"step_batch_size": 4},
            8,
            1000,
            "step_batch_size must be a multiple of processes: 4 is not a multiple of 8",
        ),
        ({"step_batch_size": 384}, 8, 1000, "rollout_batch_size must be a multiple of step_batch_size: 512"),
        ({}, 3, 1000, "512 is not a multiple of 96"),
        ({}, 8, 511, "rollout_batch_size 512 needs as many prompts; the data has 511"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_all_numbers(changes, world_size, n_prompts, message):
    with pytest.raises(ValueError, match=message) as refused:
        plan_batches(ppo_arguments(**changes), world_size, n_prompts)
    text = str(refused.value)
    assert f"processes {world_size}" in text
    for name in ("rollout_batch_size", "rollout_per_device_batch_size", "step_batch_size"):
        assert f"{name} {getattr(ppo_arguments(**changes), name)}" in text


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError, match="multiple of processes × rollout_per_device") as refused:
        plan_batches(ppo_arguments(rollout_per_device_batch_size=48, step_batch_size=4), 8, 10)
    assert "step_batch_size must" in str(refused.value) and "the data has 10" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noptepochs": 0}, "--noptepochs 0: must be at least 1"),
        ({"temperature": 0.0}, "--temperature 0.0: must be above 0"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ppo_arguments(**changes)


def test_the_kl_estimator_is_an_enum_whatever_it_was_given_as():
    assert RewardArguments(kl_estimator="k3").kl_estimator is KLEstimator.K3
    assert RewardArguments().kl_estimator is KLEstimator.K1_CLAMPED
    with pytest.raises(ValueError, match="k4"):
        RewardArguments(kl_estimator="k4")
