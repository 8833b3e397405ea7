"""Weights of tokens that another engine drew: by hand, against autograd of the formula, and against exact expectations."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.importance import engine_log_ratio, truncated_importance_weights
from llava_rlhf.functional.kl import kl_loss
from llava_rlhf.functional.losses import policy_loss

NAN = float("nan")
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_weights_by_hand():
    # p = .5 .2 .1 | .4, q = .5 .4 .01 | .2: ratios 1, .5, 10 and 2, the third cut off at 3.
    ours = torch.tensor([[0.5, 0.2, 0.1], [0.4, 1.0, 1.0]]).log()
    theirs = torch.tensor([[0.5, 0.4, 0.01], [0.2, 1.0, 1.0]]).log()
    ours[1, 1], theirs[1, 2] = NAN, NAN
    ratio = engine_log_ratio(ours.requires_grad_(), theirs, MASK)
    weights = truncated_importance_weights(ratio, 3.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5, 3.0], [2.0, 1.0, 1.0]]))
    assert weights[0, 0] == 1.0 and not weights.requires_grad


def test_an_engine_that_says_nothing_of_a_token_weighs_no_more_than_the_cap():
    ratio = engine_log_ratio(torch.tensor([[-0.1]]), torch.tensor([[-9999.0]]), torch.tensor([[True]]))
    assert truncated_importance_weights(ratio, 2.0) == 2.0


def test_the_gradient_is_that_of_the_formula():
    """Σ w · max(−A ρ, −A clip(ρ)), w = min(exp(old − engine), cap) held constant, dual clip inside of w."""
    generator = torch.Generator().manual_seed(3)
    new, old, engine, advantages = torch.randn(4, 2, 3, generator=generator)
    new = new.requires_grad_()
    weights = truncated_importance_weights(engine_log_ratio(old, engine, MASK), 1.5)
    assert (weights[MASK] == 1.5).any() and (weights[MASK] < 1).any(), "the cap must cut off some"
    loss = policy_loss(new, old, advantages, MASK, 0.2, dual_clip=1.7, weights=weights)
    (found,) = torch.autograd.grad(loss.sum, new)
    total = torch.zeros(())
    for row, column in MASK.nonzero().tolist():
        a, rho = advantages[row, column], (new[row, column] - old[row, column]).exp()
        token = torch.max(-a * rho, -a * rho.clamp(0.8, 1.2))
        if a < 0:
            token = torch.min(token, -a * 1.7)
        total = total + min(math.exp(old[row, column] - engine[row, column]), 1.5) * token
    (expected,) = torch.autograd.grad(total, new)
    torch.testing.assert_close(loss.sum, total)
    torch.testing.assert_close(found, expected)


def test_padding_has_no_gradient_whatever_the_engine_says_there():
    new = torch.zeros(2, 3, requires_grad=True)
    engine = torch.full((2, 3), -0.5).masked_fill(~MASK, NAN)
    weights = truncated_importance_weights(engine_log_ratio(torch.zeros(2, 3), engine, MASK), 2.0)
    loss = policy_loss(new, torch.zeros(2, 3), torch.ones(2, 3), MASK, 0.2, weights=weights)
    (gradient,) = torch.autograd.grad(loss.sum, new)
    expected = torch.where(MASK, -torch.tensor(0.5).exp(), 0.0)
    torch.testing.assert_close(gradient, expected)


def test_statistics_are_of_tokens_not_of_weights():
    log_probs = torch.tensor([[0.1, -0.4, 0.3], [0.2, 0.0, 0.0]])
    batch = (log_probs, torch.zeros(2, 3), torch.ones(2, 3), MASK, 0.2)
    plain, weighted = policy_loss(*batch), policy_loss(*batch, weights=torch.full((2, 3), 0.5))
    assert plain.count == weighted.count and plain.stats == weighted.stats
    assert weighted.sum == plain.sum / 2


@pytest.mark.parametrize("estimator", [KLEstimator.K1, KLEstimator.K2, KLEstimator.K3])
def test_on_average_over_the_engine_gradients_are_those_of_the_model_that_trains(estimator):
    """Every token of a small vocabulary, by the probability with which the engine draws it; nothing is cut off."""
    generator = torch.Generator().manual_seed(5)
    logits, advantages, reference, engine = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    reference, q = reference.log_softmax(0), engine.log_softmax(0)
    mask = torch.ones(6, 1, dtype=torch.bool)

    def column(x):
        return x.unsqueeze(1)

    def gradient(drawn, weights):
        """Of the expected loss where tokens are drawn with `drawn`."""
        moved = logits.clone().requires_grad_()
        p, old = column(moved.log_softmax(0)), column(logits.log_softmax(0))
        counts = column(drawn) if weights is None else column(drawn) * weights
        loss = policy_loss(p, old, column(advantages), mask, 0.2, weights=counts).sum
        loss = loss + kl_loss(p, old, column(reference), mask, estimator, counts).sum
        return torch.autograd.grad(loss, moved)[0]

    p = logits.log_softmax(0)
    ratio = engine_log_ratio(column(p), column(q), mask)
    expected = gradient(p.exp(), None)
    torch.testing.assert_close(gradient(q.exp(), truncated_importance_weights(ratio, 1e9)), expected)
    assert (gradient(q.exp(), None) - expected).abs().max() > 0.01, "the engine must differ"
    assert (gradient(q.exp(), truncated_importance_weights(ratio, 1.01)) - expected).abs().max() > 1e-3, (
        "a cap biases"
    )
