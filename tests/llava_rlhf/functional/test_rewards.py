"""Stop penalty and token rewards: by hand and under padding."""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.functional.rewards import apply_stop_penalty, ensemble_scores, token_rewards

MASK = torch.tensor([[True, True, False], [True, False, False]])
KL = torch.tensor([[0.5, 2.0, float("nan")], [1.0, 9.0, float("inf")]])
SCORES = torch.tensor([3.0, -1.0])


def test_stop_penalty_by_hand():
    scores = torch.tensor([1.0, 2.0, -0.5])
    stopped = torch.tensor([True, False, False])
    relative = apply_stop_penalty(scores, stopped, -8.0, relative=True)
    absolute = apply_stop_penalty(scores, stopped, -8.0, relative=False)
    assert relative.tolist() == [1.0, -6.0, -8.5]
    assert absolute.tolist() == [1.0, -8.0, -8.0]
    assert scores.tolist() == [1.0, 2.0, -0.5]


def test_an_ensemble_by_hand():
    # Means 3, 5 and 1; deviations (−2, 0, 2), none, (−3, 0, 3): standard deviations √(8/3), 0, √6.
    members = torch.tensor([[1.0, 3.0, 5.0], [5.0, 5.0, 5.0], [-2.0, 1.0, 4.0]])
    scores, spread = ensemble_scores(members, 0.5)
    assert spread.tolist() == pytest.approx([1.6329932, 0.0, 2.4494897])
    assert scores.tolist() == pytest.approx([3 - 0.8164966, 5.0, 1 - 1.2247449])
    assert ensemble_scores(members, 0.0)[0].tolist() == [3.0, 5.0, 1.0]


def test_the_order_of_reward_models_does_not_matter():
    members = torch.tensor([[1.0, 3.0, 8.0], [2.0, -1.0, 0.5]])
    assert torch.allclose(ensemble_scores(members, 0.7)[0], ensemble_scores(members.flip(1), 0.7)[0])


def test_token_rewards_by_hand():
    # Row 0: -.1 * .5, -.1 * 2 + 3, padding; row 1: -.1 * 1 + (-1), padding, padding.
    expected = torch.tensor([[-0.05, 2.8, 0.0], [-1.1, 0.0, 0.0]])
    torch.testing.assert_close(token_rewards(SCORES, KL, MASK, 0.1), expected)


def test_the_score_sits_on_the_last_real_token_only():
    rewards = token_rewards(SCORES, torch.zeros_like(KL), MASK, 0.1)
    assert rewards.tolist() == [[0.0, 3.0, 0.0], [-1.0, 0.0, 0.0]]


def test_more_padding_changes_nothing():
    wide_mask = torch.cat([MASK, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    wide_kl = torch.cat([KL, torch.full((2, 2), 7.0)], dim=1)
    wide = token_rewards(SCORES, wide_kl, wide_mask, 0.1)
    assert torch.equal(wide[:, :3], token_rewards(SCORES, KL, MASK, 0.1))
    assert wide[:, 3:].abs().max() == 0.0


def test_a_row_without_a_real_token_is_refused():
    with pytest.raises(ValueError, match=r"rows \[1\] of the mask have no token"):
        token_rewards(SCORES, KL, MASK & torch.tensor([[True], [False]]), 0.1)
