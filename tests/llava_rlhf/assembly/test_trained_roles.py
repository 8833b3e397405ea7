"""Of the four roles of PPO two train, policy and value: nothing else asks for a gradient, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llava_rlhf.assembly.roles import PPORoles
from llava_rlhf.runs.role_files import POLICY, REFERENCE, REWARD, VALUE
from tests.support.ppo_world import assemble
from tests.support.tiny_data import ppo_command


def all_weights(roles: PPORoles) -> dict[str, Tensor]:
    """Every weight of bases, adapters and heads by its name; those of a shared base once."""
    banks = {"policy bank": roles.policy.bank, "reward bank": roles.reward.bank}
    if roles.shared:
        del banks["reward bank"]
    modules = {**banks, "value head": roles.value.head, "reward head": roles.reward.head}
    return {
        f"{name}: {key}": weight for name, one in modules.items() for key, weight in one.named_parameters()
    }


def of_role(weights: dict[str, Tensor], role: str) -> set[str]:
    return {name for name in weights if f".{role}." in name}


@pytest.fixture(params=["one base", "two bases"])
def assembled(request, tmp_path, tiny_data, tiny_base, policy_run):
    """PPO of one step before its first, all adapters moved so that each has a gradient."""
    two = request.param == "two bases"
    reward_run = request.getfixturevalue("own_base_reward_run" if two else "reward_run")
    reward_base = request.getfixturevalue("tiny_reward_base") if two else None
    argv = ppo_command(
        tiny_data,
        tiny_base,
        policy_run,
        reward_run,
        tmp_path,
        max_steps=1,
        weight_decay=0.1,  # moves whatever the optimizer holds, gradient or none
        reward_base_model_name=reward_base,
    )
    parts = assemble(argv, spread=0.01)
    assert parts.roles.shared is not two
    return parts


def test_policy_and_value_train_and_nothing_else_does(assembled):
    weights = all_weights(assembled.roles)
    assert all(of_role(weights, role) for role in (POLICY, REFERENCE, VALUE, REWARD))
    value_head = {name for name in weights if name.startswith("value head")}
    expected = of_role(weights, POLICY) | of_role(weights, VALUE) | value_head
    assert {name for name, weight in weights.items() if weight.requires_grad} == expected
    held = [one for group in assembled.trainer.updater.optimizer.param_groups for one in group["params"]]
    assert {id(one) for one in held} == {id(weights[name]) for name in expected}


def test_a_step_moves_policy_and_value_and_nothing_else(assembled):
    trainer, weights = assembled.trainer, all_weights(assembled.roles)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    passes = trainer.stream.micro_batches(0, 1, trainer.arguments.rollout_per_device_batch_size)
    trainer.train((assembled.batch(rows) for rows in passes), 0)
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name, weight in weights.items() if weight.requires_grad}
    assert not moved & (of_role(weights, REFERENCE) | of_role(weights, REWARD))
