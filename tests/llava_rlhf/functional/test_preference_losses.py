"""The loss of preference optimisation by hand, and its gradient against autograd of the formula written out."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.functional.preference_losses import dpo_loss

# Log-ratios of the preferred answer and the other, in nats.
LOG_RATIOS = [[1.0, -1.0], [0.5, 2.5], [3.0, 3.0], [torch.nan, torch.inf]]
MASK = torch.tensor([True, True, True, False])


def test_by_hand():
    # beta 0.5: margins 1, −1, 0; −log σ: log(1 + e^−1), log(1 + e), log 2. The last pair does not count.
    found = dpo_loss(torch.tensor(LOG_RATIOS), MASK, beta=0.5)
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.e) + math.log(2)
    assert float(found.sum) == pytest.approx(expected, rel=1e-6) and float(found.count) == 3
    stats = {name: float(value) for name, value in found.stats.items()}
    # 0.5 (1 + 0.5 + 3) and 0.5 (−1 + 2.5 + 3); one pair right, one a tie.
    assert stats == pytest.approx(
        {"chosen_reward": 2.25, "rejected_reward": 2.25, "reward_margin": 0.0, "accuracy": 1.5}
    )


def test_smoothed_labels_by_hand():
    # Margin 1 and a tenth of the labels wrong: 0.9 log(1 + e^−1) + 0.1 log(1 + e).
    found = dpo_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([True]), beta=1.0, label_smoothing=0.1)
    expected = 0.9 * math.log(1 + math.exp(-1)) + 0.1 * math.log(1 + math.e)
    assert float(found.sum) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_is_that_of_the_formula_and_0_where_nothing_counts(smoothing):
    log_ratios = torch.tensor(LOG_RATIOS, requires_grad=True)
    beta = 0.3
    dpo_loss(log_ratios, MASK, beta, smoothing).sum.backward()
    for (chosen, rejected), gradient in zip(LOG_RATIOS[:3], log_ratios.grad.tolist(), strict=False):
        sigmoid = 1 / (1 + math.exp(-beta * (chosen - rejected)))
        slope = beta * (-(1 - smoothing) * (1 - sigmoid) + smoothing * sigmoid)
        assert gradient == pytest.approx([slope, -slope], rel=1e-5)
    assert log_ratios.grad[3].tolist() == [0.0, 0.0]


def test_a_large_margin_is_no_overflow():
    found = dpo_loss(torch.tensor([[-1e4, 1e4]]), torch.tensor([True]), beta=1.0)
    assert float(found.sum) == pytest.approx(2e4)


def test_no_pair_at_all_has_a_gradient_of_0():
    log_ratios = torch.ones(2, 2, requires_grad=True)
    found = dpo_loss(log_ratios, torch.tensor([False, False]), beta=0.1)
    found.sum.backward()
    assert float(found.sum.detach()) == 0 == float(found.count)
    assert log_ratios.grad.abs().sum() == 0
