"""GAE: by hand, against the double sum of its definition, and under padding and regrouping."""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.functional.advantages import generalized_advantages


def by_definition(rewards, values, gamma, lam):
    """A_t = sum_l (gamma lam)^l delta_(t+l) for one unpadded row of floats (equation 16 of the paper)."""
    n = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


def random_batch():
    generator = torch.Generator().manual_seed(4)
    rewards, values = torch.randn(2, 5, 7, generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [1], [4], [6], [2]])
    return rewards, values, mask


def test_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 2.0], [5.0, 9.0, 9.0]])
    values = torch.tensor([[0.5, 1.0, -1.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    # gamma .5, lambda .5. Row 0: delta = 1 + .5*1 - .5 = 1, 0 + .5*(-1) - 1 = -1.5, 2 - (-1) = 3;
    # A_2 = 3, A_1 = -1.5 + .25*3 = -.75, A_0 = 1 + .25*(-.75) = .8125. Row 1: A_0 = 5 - 2 = 3.
    advantages, returns = generalized_advantages(rewards, values, mask, 0.5, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.8125, -0.75, 3.0], [3.0, 0.0, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[1.3125, 0.25, 2.0], [5.0, 0.0, 0.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (0.9, 0.0), (0.0, 0.5)])
def test_equals_the_definition_row_by_row(gamma, lam):
    rewards, values, mask = random_batch()
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    for row in range(len(mask)):
        n = int(mask[row].sum())
        expected = by_definition(rewards[row, :n].tolist(), values[row, :n].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[row, :n], torch.tensor(expected))
        torch.testing.assert_close(returns[row, :n], torch.tensor(expected) + values[row, :n])
        assert advantages[row, n:].abs().sum() == returns[row, n:].abs().sum() == 0.0


def test_published_setting_gives_reward_to_go():
    rewards, values, mask = random_batch()
    _, returns = generalized_advantages(rewards, values, mask, 1.0, 1.0)
    to_go = rewards.masked_fill(~mask, 0.0).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_go.masked_fill(~mask, 0.0))


def test_padding_on_either_side_and_neighbours_change_nothing():
    rewards, values, mask = random_batch()
    advantages, returns = generalized_advantages(rewards, values, mask, 0.99, 0.95)
    garbage = torch.full((5, 2), float("nan"))
    nothing = torch.zeros(5, 2, dtype=torch.bool)
    wide = [torch.cat([garbage, x, garbage], dim=1) for x in (rewards, values)]
    wide_mask = torch.cat([nothing, mask, nothing], dim=1)
    wide_advantages, wide_returns = generalized_advantages(*wide, wide_mask, 0.99, 0.95)
    assert torch.equal(wide_advantages[:, 2:-2], advantages)
    assert torch.equal(wide_returns[:, 2:-2], returns)
    one_by_one = [
        generalized_advantages(rewards[i : i + 1], values[i : i + 1], mask[i : i + 1], 0.99, 0.95)[0]
        for i in range(5)
    ]
    assert torch.equal(torch.cat(one_by_one), advantages)
