"""Losses: by hand, against literal loops, against autograd, and under padding and regrouping."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.functional.losses import (
    LossSum,
    explained_variance,
    pairwise_accuracy,
    pairwise_reward_loss,
    policy_loss,
    value_loss,
)
from llava_rlhf.functional.masked import moments

NAN, INF = float("nan"), float("inf")
MASK = torch.tensor([[True, True, False], [True, False, False]])


def random_batch():
    """Six float[6, 5] tensors and a mask with rows of 1 to 5 real tokens."""
    tensors = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(8))
    mask = torch.arange(5) < torch.tensor([[5], [1], [3], [2], [4], [5]])
    return (*tensors, mask)


def combine(parts: list[LossSum]) -> LossSum:
    stats = {name: sum(part.stats[name] for part in parts) for name in parts[0].stats}
    return LossSum(sum(part.sum for part in parts), sum(part.count for part in parts), stats)


def assert_same(left: LossSum, right: LossSum):
    torch.testing.assert_close(left.sum, right.sum)
    assert left.count == right.count
    assert left.stats.keys() == right.stats.keys()
    for name in left.stats:
        torch.testing.assert_close(left.stats[name], right.stats[name])


def test_policy_loss_by_hand():
    # Ratios 1.5 and .5 in row 0 (A = 2, -1), 1.1 in row 1 (A = 3); cliprange .2.
    ratio = torch.tensor([[1.5, 0.5, 1.0], [1.1, 1.0, 1.0]])
    advantages = torch.tensor([[2.0, -1.0, NAN], [3.0, NAN, NAN]])
    # max(-3, -2.4) = -2.4 (clipped), max(.5, .8) = .8 (clipped), max(-3.3, -3.3) = -3.3
    loss = policy_loss(ratio.log(), torch.zeros(2, 3), advantages, MASK, 0.2)
    torch.testing.assert_close(loss.sum, torch.tensor(-2.4 + 0.8 - 3.3))
    assert loss.count == 3.0
    assert loss.stats["policy/clipfrac"] == 2.0
    approxkl = 0.5 * (math.log(1.5) ** 2 + math.log(0.5) ** 2 + math.log(1.1) ** 2)
    torch.testing.assert_close(loss.stats["policy/approxkl"], torch.tensor(approxkl))


def test_policy_gradient_at_ratio_one_is_minus_advantage_over_count():
    log_probs, advantages, *_, mask = random_batch()
    log_probs = log_probs.clone().requires_grad_()
    loss = policy_loss(log_probs, log_probs.detach().clone(), advantages, mask, 0.2)
    (loss.sum / loss.count).backward()
    torch.testing.assert_close(log_probs.grad, (-advantages / 20).masked_fill(~mask, 0.0))
    assert int(mask.sum()) == 20
    assert loss.stats["policy/approxkl"] == loss.stats["policy/clipfrac"] == 0.0


@pytest.mark.parametrize("cliprange", [0.05, 0.2, 1.0])
def test_policy_loss_equals_a_loop(cliprange):
    log_probs, old_log_probs, advantages, _, mask = random_batch()
    total = clipped = 0.0
    for i, j in mask.nonzero().tolist():
        rho = math.exp(log_probs[i, j].item() - old_log_probs[i, j].item())
        a = advantages[i, j].item()
        options = (-a * rho, -a * min(max(rho, 1 - cliprange), 1 + cliprange))
        total += max(options)
        clipped += options[1] > options[0]
    loss = policy_loss(log_probs, old_log_probs, advantages, mask, cliprange)
    assert loss.sum.item() == pytest.approx(total, rel=1e-5)
    assert loss.stats["policy/clipfrac"] == clipped


def test_value_loss_by_hand():
    values = torch.tensor([[1.0, 3.0, NAN], [0.0, INF, NAN]])
    old_values = torch.tensor([[0.9, 1.0, NAN], [0.5, NAN, NAN]])
    returns = torch.tensor([[2.0, 3.5, NAN], [-1.0, NAN, NAN]])
    # Clip range .2. Token 1: clip(1, .7..1.1) = 1 -> max(1, 1) = 1. Token 2: clip(3, .8..1.2) = 1.2 ->
    # max(.25, 5.29) = 5.29 (clipped). Token 3: clip(0, .3...7) = .3 -> max(1, 1.69) = 1.69 (clipped).
    loss = value_loss(values, old_values, returns, MASK, 0.2)
    torch.testing.assert_close(loss.sum, torch.tensor(0.5 * (1 + 5.29 + 1.69)))
    assert loss.count == 3.0
    assert loss.stats["val/clipfrac"] == 2.0
    torch.testing.assert_close(loss.stats["val/vpred"], torch.tensor(4.0))
    torch.testing.assert_close(loss.stats["val/error"], torch.tensor(1 + 0.25 + 1.0))


def test_value_gradient_at_the_old_values_is_their_error():
    values, _, returns, _, mask = random_batch()
    values = values.clone().requires_grad_()
    value_loss(values, values.detach().clone(), returns, mask, 0.2).sum.backward()
    torch.testing.assert_close(values.grad, (values.detach() - returns).masked_fill(~mask, 0.0))


def test_value_clipping_stops_the_gradient_of_a_value_that_ran_ahead():
    # V moved from 0 to 1 past the clip at .2, on its way to R = 5: the clipped error is larger and is constant in V.
    values = torch.tensor([[1.0]], requires_grad=True)
    value_loss(
        values, torch.zeros(1, 1), torch.full((1, 1), 5.0), torch.ones(1, 1, dtype=torch.bool), 0.2
    ).sum.backward()
    assert values.grad.item() == 0.0


def test_garbage_on_padding_reaches_neither_loss_nor_gradient():
    tensors = random_batch()
    a, b, c, _, mask = tensors
    for loss_function in (policy_loss, value_loss):
        clean = a.clone().requires_grad_()
        expected = loss_function(clean, b, c, mask, 0.2)
        expected.sum.backward()
        for garbage in (NAN, INF, -INF, 1e30):
            dirty = a.masked_fill(~mask, garbage).requires_grad_()
            loss = loss_function(dirty, b, c.masked_fill(~mask, garbage), mask, 0.2)
            loss.sum.backward()
            assert_same(loss, expected)
            assert torch.equal(dirty.grad, clean.grad)
            loss_function(a, b.masked_fill(~mask, garbage), c, mask, 0.2)


@pytest.mark.parametrize("loss_function", [policy_loss, value_loss])
def test_grouping_and_more_padding_change_nothing(loss_function):
    a, b, c, _, mask = random_batch()
    whole = loss_function(a, b, c, mask, 0.2)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    groups = [loss_function(a[rows], b[rows], c[rows], mask[rows], 0.2) for rows in order.split([1, 3, 2])]
    assert_same(combine(groups), whole)
    padding = torch.full((6, 3), 2.0)
    wide = [torch.cat([x, padding * k], dim=1) for k, x in enumerate((a, b, c), start=1)]
    wide_mask = torch.cat([mask, torch.zeros(6, 3, dtype=torch.bool)], dim=1)
    assert_same(loss_function(*wide, wide_mask, 0.2), whole)


def test_stats_are_detached():
    a, b, c, _, mask = random_batch()
    for loss_function in (policy_loss, value_loss):
        loss = loss_function(a.clone().requires_grad_(), b, c, mask, 0.2)
        assert loss.sum.requires_grad
        assert not any(value.requires_grad for value in loss.stats.values())


def test_pairwise_loss_by_hand():
    rewards = torch.tensor([[1.0, 3.0], [0.5, -0.5]])
    # Second preferred, margin 2: log(1 + e^-2). First preferred, margin 1: log(1 + e^-1). Centre: mean(4, 0) = 2.
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    loss = pairwise_reward_loss(rewards, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(expected + 1e-3 * 2.0, rel=1e-6)
    negative = pairwise_reward_loss(-rewards.flip(1), torch.tensor([1, 0]))
    assert negative.item() == pytest.approx(expected + 1e-3 * 2.0, rel=1e-6)


def test_pairwise_gradient_pulls_the_rewards_apart_and_to_zero():
    rewards = torch.zeros(1, 2, requires_grad=True)
    pairwise_reward_loss(rewards, torch.tensor([1])).backward()
    # sigmoid(0) - 1 = -1/2 for the preferred answer; no pull at centre 0.
    torch.testing.assert_close(rewards.grad, torch.tensor([[0.5, -0.5]]))
    rewards = torch.tensor([[-4.0, -4.0]], requires_grad=True)
    pairwise_reward_loss(rewards, torch.tensor([1]), center_coef=0.25).backward()
    torch.testing.assert_close(rewards.grad, torch.tensor([[0.5 - 0.25, -0.5 - 0.25]]))


def test_pairwise_loss_of_two_processes_equals_one():
    # The halves' centres have opposite signs, so that averaging their absolute values would be wrong.
    rewards = torch.tensor([[3.0, 1.0], [2.0, 2.5], [-1.0, -2.0], [-0.5, -1.0]], requires_grad=True)
    choice = torch.tensor([1, 0, 1, 1])
    whole = pairwise_reward_loss(rewards, choice, 0.5)
    (expected,) = torch.autograd.grad(whole, rewards)
    center = rewards.detach().sum(dim=1).mean()
    halves = [pairwise_reward_loss(rewards[s], choice[s], 0.5, center) for s in (slice(0, 2), slice(2, 4))]
    average = sum(halves) / 2
    torch.testing.assert_close(average, whole)
    torch.testing.assert_close(torch.autograd.grad(average, rewards)[0], expected)
    alone = [pairwise_reward_loss(rewards[s], choice[s], 0.5) for s in (slice(0, 2), slice(2, 4))]
    assert (sum(alone) / 2 - whole).abs() > 0.1


def test_pairwise_accuracy_by_hand():
    rewards = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    # Right, wrong, right, tie: (1 + 0 + 1 + .5) / 4.
    assert pairwise_accuracy(rewards, torch.tensor([1, 0, 0, 1])).item() == 0.625


def explained(values, returns):
    return explained_variance(moments(returns - values, MASK), moments(returns, MASK)).item()


def test_explained_variance():
    returns = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN]])
    # var(R) = 14/3 (see test_masked); R - V = 0, 0, 3 has mean 1 and variance (1 + 1 + 4)/3 = 2: 1 - 2/(14/3) = 4/7.
    values = torch.tensor([[1.0, 2.0, NAN], [3.0, NAN, NAN]])
    assert explained(values, returns) == pytest.approx(4 / 7)
    assert explained(returns + 5.0, returns) == 1.0
    assert explained(torch.zeros(2, 3), returns) == pytest.approx(0.0)
    assert explained(values, torch.ones(2, 3)) == 0.0


@pytest.mark.parametrize("loss_function", [policy_loss, value_loss])
def test_no_argument_is_broadcast(loss_function):
    a, b, c, _, mask = random_batch()
    for tensors in ((a[:, :1], b, c), (a, b[:, :1], c), (a, b, c[:, :1])):
        with pytest.raises(AssertionError, match="differ in shape"):
            loss_function(*tensors, mask, 0.2)
