"""What the policy's loss offers beside the published one: by hand, against loops, and against exact expectations."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.kl import kl_estimate, kl_loss
from llava_rlhf.functional.losses import policy_loss, response_weights

NAN = float("nan")
MASK = torch.tensor([[True, True, True], [True, False, False]])
WITH_GRADIENT = (KLEstimator.K1, KLEstimator.K2, KLEstimator.K3)


def of_ratios(ratios, advantages, **settings):
    ratios, advantages = torch.tensor(ratios), torch.tensor(advantages)
    log_probs = ratios.log().requires_grad_()
    loss = policy_loss(log_probs, torch.zeros_like(ratios), advantages, MASK, 0.2, **settings)
    (gradient,) = torch.autograd.grad(loss.sum, log_probs)
    return loss, gradient


def test_a_clip_of_its_own_above_one():
    # A = 2: ratios 1.25 (inside of 1.3) and 1.5 (outside); A = -1: ratio .75, which the clip below still holds at .8.
    loss, gradient = of_ratios(
        [[1.25, 1.5, 0.75], [1.0, 1.0, 1.0]], [[2.0, 2.0, -1.0], [3.0, NAN, NAN]], cliprange_high=0.3
    )
    torch.testing.assert_close(loss.sum.detach(), torch.tensor(-2.5 - 2.6 + 0.8 - 3.0))
    torch.testing.assert_close(gradient, torch.tensor([[-2.5, 0.0, 0.0], [-3.0, 0.0, 0.0]]))
    assert loss.stats["policy/clipfrac"] == 2.0


def test_the_same_clip_named_twice_changes_nothing():
    numbers = ([[1.25, 1.5, 0.75], [1.0, 1.0, 1.0]], [[2.0, -2.0, -1.0], [3.0, 0.0, 0.0]])
    (plain, gradient), (named, same) = of_ratios(*numbers), of_ratios(*numbers, cliprange_high=0.2)
    assert torch.equal(plain.sum, named.sum) and torch.equal(gradient, same)


def test_a_dual_clip_holds_where_the_advantage_is_negative():
    # A = -1: ratio 5 is cut off at 3 and has no gradient, ratio 2 is free; A = 2 and ratio 5: the plain clip at 1.2.
    loss, gradient = of_ratios(
        [[5.0, 2.0, 5.0], [1.0, 1.0, 1.0]], [[-1.0, -1.0, 2.0], [0.5, NAN, NAN]], dual_clip=3.0
    )
    torch.testing.assert_close(loss.sum.detach(), torch.tensor(3.0 + 2.0 - 2.4 - 0.5))
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 2.0, 0.0], [-0.5, 0.0, 0.0]]))
    assert loss.stats["policy/dual_clipfrac"] == 1.0 and loss.stats["policy/clipfrac"] == 1.0


def test_means_over_responses_by_hand():
    """Losses -1, -2, -3 of one response and -8 of another; 4 tokens, 2 rollouts, at most 5 tokens."""
    log_probs = torch.zeros(2, 3)
    advantages = torch.tensor([[1.0, 2.0, 3.0], [8.0, NAN, NAN]])
    tokens, rollouts = torch.tensor(4), torch.tensor(2)

    def mean(weights):
        return policy_loss(log_probs, log_probs, advantages, MASK, 0.2, weights=weights).sum / tokens

    assert mean(None) == -14 / 4
    torch.testing.assert_close(mean(response_weights(MASK, tokens, rollouts)), torch.tensor(-(2 + 8) / 2))
    constant = mean(response_weights(MASK, tokens, rollouts, length=5))
    torch.testing.assert_close(constant, torch.tensor(-(6 + 8) / (2 * 5)))


def test_weights_change_neither_count_nor_statistics():
    log_probs = torch.tensor([[0.1, -0.4, 0.3], [0.2, 0.0, 0.0]])
    batch = (log_probs, torch.zeros(2, 3), torch.ones(2, 3), MASK, 0.2)
    plain, weighted = policy_loss(*batch), policy_loss(*batch, weights=torch.tensor([0.5, 2.0]))
    assert plain.count == weighted.count and plain.stats == weighted.stats
    assert plain.sum != weighted.sum


def test_a_mean_over_responses_does_not_depend_on_their_grouping():
    generator = torch.Generator().manual_seed(4)
    log_probs, old, advantages = torch.randn(3, 5, 4, generator=generator)
    mask = torch.arange(4) < torch.tensor([[4], [1], [3], [2], [4]])
    tokens, rollouts = mask.sum(), torch.tensor(5)

    def total(groups):
        rows = ([x[group] for x in (log_probs, old, advantages, mask)] for group in groups)
        return sum(
            policy_loss(*batch, 0.2, weights=response_weights(batch[3], tokens, rollouts)).sum
            for batch in rows
        )

    torch.testing.assert_close(total([[0, 1], [2], [4, 3]]), total([[0, 1, 2, 3, 4]]))


def test_a_response_without_a_token_weighs_a_finite_number():
    mask = torch.tensor([[True, False], [False, False]])
    for length in (None, 4):
        assert response_weights(mask, torch.tensor(1), torch.tensor(1), length).isfinite().all()


def policies():
    """Logits of the policy, and log-probabilities of an older one and of the reference: float64[7], all different."""
    generator = torch.Generator().manual_seed(2)
    logits, old, reference = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), old.log_softmax(0), reference.log_softmax(0)


def gradient_of_divergence(logits, reference):
    log_probs = logits.log_softmax(0)
    return torch.autograd.grad((log_probs.exp() * (log_probs - reference)).sum(), logits)[0]


def expected_gradient(logits, old, terms):
    """Σ_a p_old(a) · ∇ terms(a)."""
    return torch.autograd.grad((old.exp() * terms(logits.log_softmax(0))).sum(), logits)[0]


def as_rows(estimator, old, reference):
    """Every token of the vocabulary as a response of its own, weighed by how often the older policy says it."""

    def terms(log_probs):
        batch = (x.unsqueeze(1) for x in (log_probs, old, reference))
        mask = torch.ones(len(old), 1, dtype=torch.bool)
        loss = kl_loss(*batch, mask, estimator, weights=old.exp())
        return loss.sum

    return terms


@pytest.mark.parametrize("estimator", WITH_GRADIENT)
def test_the_term_has_the_gradient_of_the_divergence(estimator):
    logits, old, reference = policies()
    exact = gradient_of_divergence(logits, reference)
    (found,) = torch.autograd.grad(as_rows(estimator, old, reference)(logits.log_softmax(0)), logits)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", WITH_GRADIENT)
def test_without_the_ratio_it_has_another(estimator):
    """What most programs do; k1 then has no gradient at all where both policies are one."""
    logits, old, reference = policies()
    exact = gradient_of_divergence(logits, reference)

    def naive(log_probs):
        return kl_estimate(log_probs, reference, estimator)

    assert (expected_gradient(logits, old, naive) - exact).abs().max() > 0.05
    on_policy = expected_gradient(logits, logits.detach().log_softmax(0), naive)
    if estimator is KLEstimator.K2:
        torch.testing.assert_close(on_policy, exact, rtol=0, atol=1e-12)
    else:
        assert (on_policy - exact).abs().max() > 0.05
    if estimator is KLEstimator.K1:
        assert on_policy.abs().max() < 1e-12


@pytest.mark.parametrize("estimator", [KLEstimator.K1, KLEstimator.K3])
def test_its_mean_is_the_divergence(estimator):
    logits, old, reference = policies()
    log_probs = logits.detach().log_softmax(0)
    divergence = (log_probs.exp() * (log_probs - reference)).sum()
    torch.testing.assert_close(as_rows(estimator, old, reference)(log_probs), divergence)


def test_the_term_by_hand():
    # Ratios 2 and 1/2 to the older policy; log p − log p_ref = 1, −1. k3: e^-1 − 1 + 1 and e − 1 − 1. Last: padding.
    log_probs = torch.tensor([[-1.0, -2.0, NAN]])
    old = log_probs - torch.tensor([[math.log(2.0), -math.log(2.0), 0.0]])
    reference = torch.tensor([[-2.0, -1.0, NAN]])
    mask = torch.tensor([[True, True, False]])
    expected = {
        KLEstimator.K1: 2.0 - 0.5,
        KLEstimator.K2: 2 * 0.5 + 0.5 * 0.5,
        KLEstimator.K3: 2 / math.e + 0.5 * (math.e - 2),
    }
    for estimator, number in expected.items():
        loss = kl_loss(log_probs, old, reference, mask, estimator, weights=torch.tensor([3.0]))
        torch.testing.assert_close(loss.sum, torch.tensor(3 * number))
        torch.testing.assert_close(loss.stats["loss/kl"], torch.tensor(number))
        assert loss.count == 2.0


def test_padding_gets_no_gradient():
    log_probs = torch.tensor([[-1.0, NAN]], requires_grad=True)
    other, mask = torch.tensor([[-1.5, NAN]]), torch.tensor([[True, False]])
    for estimator in WITH_GRADIENT:
        loss = kl_loss(log_probs, other, other - 0.5, mask, estimator)
        (gradient,) = torch.autograd.grad(loss.sum, log_probs)
        assert gradient[0, 0] != 0 and gradient[0, 1] == 0


def test_the_published_estimate_is_no_term_of_a_loss():
    numbers = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="k1_clamped has the gradient of no divergence"):
        kl_loss(numbers, numbers, numbers, numbers == 0, KLEstimator.K1_CLAMPED)
