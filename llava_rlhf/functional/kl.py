"""Per-token estimates of KL(policy || reference) from one sampled token each."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor


class KLEstimator(str, Enum):
    """Which estimate; with d = log p_ref - log p: (names k1 and k3 after http://joschu.net/blog/kl-approx.html)."""

    K1_CLAMPED = "k1_clamped"
    """max(-d, 0): as published; biased upwards."""
    K1 = "k1"
    """-d: unbiased, may be negative."""
    K3 = "k3"
    """exp(d) - 1 - d: unbiased, never negative."""


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimated KL of every token, exactly 0 where both log-probabilities are equal.

    Args:
        log_probs: float[B, T], of the sampled tokens under the policy that sampled them.
        ref_log_probs: float[B, T], of the same tokens under the reference.
        estimator: see :class:`KLEstimator`.

    Returns:
        float[B, T] in nats; meaningless on padding.
    """
    log_ratio = log_probs - ref_log_probs
    if estimator is KLEstimator.K1_CLAMPED:
        return log_ratio.clamp_min(0.0)
    if estimator is KLEstimator.K1:
        return log_ratio
    if estimator is KLEstimator.K3:
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(
        f"unknown KL estimator {estimator!r}: use one of {[member.value for member in KLEstimator]}"
    )
