"""KL estimates: by hand, and in expectation against the exact divergence of two small distributions."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.kl import kl_estimate


def test_by_hand():
    log_probs = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, 0.0]])
    ref_log_probs = torch.tensor([[-2.0, -1.0, -0.5], [-3.0, -1.5, -2.0]])
    # log p - log p_ref = 1, -1, 0 / 0, 0.5, 2
    k1 = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.5, 2.0]])
    torch.testing.assert_close(kl_estimate(log_probs, ref_log_probs, KLEstimator.K1), k1)
    clamped = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 2.0]])
    torch.testing.assert_close(kl_estimate(log_probs, ref_log_probs, KLEstimator.K1_CLAMPED), clamped)
    k2 = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.125, 2.0]])
    torch.testing.assert_close(kl_estimate(log_probs, ref_log_probs, KLEstimator.K2), k2)
    # e^-1 - 1 + 1, e^1 - 1 - 1, 0 / 0, e^-.5 - 1 + .5, e^-2 - 1 + 2
    k3 = [[math.exp(-1), math.e - 2, 0.0], [0.0, math.exp(-0.5) - 0.5, math.exp(-2) + 1]]
    torch.testing.assert_close(kl_estimate(log_probs, ref_log_probs, KLEstimator.K3), torch.tensor(k3))


@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_equal_policies_give_exactly_zero(estimator):
    log_probs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert kl_estimate(log_probs, log_probs.clone(), estimator).abs().max() == 0.0


@pytest.mark.parametrize("estimator", [KLEstimator.K1, KLEstimator.K3])
def test_unbiased_estimators_average_to_the_divergence(estimator):
    generator = torch.Generator().manual_seed(5)
    p, q = torch.randn(2, 9, generator=generator).double().softmax(dim=-1)
    exact = torch.nn.functional.kl_div(q.log(), p, reduction="sum")
    expectation = (p * kl_estimate(p.log()[None], q.log()[None], estimator)[0]).sum()
    assert exact > 0.1
    torch.testing.assert_close(expectation, exact)


def test_a_name_is_not_an_estimator():
    with pytest.raises(ValueError, match=r"'k2': use one of \['k1_clamped', 'k1', 'k2', 'k3'\]"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k2")
