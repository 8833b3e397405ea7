"""Advantages without a critic, by hand and against plain loops."""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.functional.advantages import generalized_advantages
from llava_rlhf.functional.group_advantages import (
    group_relative_advantages,
    leave_one_out_advantages,
    rewards_to_go,
)

REWARDS = torch.tensor([[1.0, 4.0, 7.0], [2.0, 2.0, 2.0]], dtype=torch.float64)


def test_leave_one_out_by_hand():
    # 1 − (4 + 7)/2, 4 − (1 + 7)/2, 7 − (1 + 4)/2
    expected = [[-4.5, 0.0, 4.5], [0.0, 0.0, 0.0]]
    assert leave_one_out_advantages(REWARDS).tolist() == expected


def test_leave_one_out_is_the_mean_of_the_whole_group_in_other_units():
    rewards = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    less_mean = group_relative_advantages(rewards, divide_by_spread=False)
    assert torch.allclose(leave_one_out_advantages(rewards), less_mean * 4 / 3, atol=1e-12)


def test_group_relative_by_hand():
    # Mean 4, deviation √((9 + 0 + 9)/2) = 3; a group without spread teaches nothing.
    assert group_relative_advantages(REWARDS, divide_by_spread=False).tolist() == [[-3, 0, 3], [0, 0, 0]]
    found = group_relative_advantages(REWARDS, divide_by_spread=True)
    assert found[0].tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
    assert found[1].tolist() == [0, 0, 0]


def test_equal_rewards_give_exactly_nothing_whatever_they_are():
    rewards = torch.tensor([0.1, -3.7, 1e4 / 3], dtype=torch.float32).double().unsqueeze(1).expand(3, 7)
    for divide in (False, True):
        assert not group_relative_advantages(rewards, divide).any()
    assert leave_one_out_advantages(rewards).abs().max() < 1e-9


def test_rewards_to_go_by_hand_and_as_gae_without_values():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # 1 + ½(2 + ½·4), 2 + ½·4, 4; 3 + ½·5, 5
    expected = [[3.0, 4.0, 4.0], [5.5, 5.0, 0.0]]
    assert rewards_to_go(rewards, mask, 0.5).tolist() == expected
    advantages, _ = generalized_advantages(rewards, torch.zeros_like(rewards), mask, 0.5, 1.0)
    assert torch.equal(advantages, rewards_to_go(rewards, mask, 0.5))
