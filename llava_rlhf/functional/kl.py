"""Per-token estimates of KL(policy || reference) from one sampled token each."""

from __future__ import annotations

import torch
from torch import Tensor

from llava_rlhf.functional.estimators import KLEstimator


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimated KL of every token, exactly 0 where both log-probabilities are equal.

    Args:
        log_probs: float[B, T], of the sampled tokens under the policy that sampled them.
        ref_log_probs: float[B, T], of the same tokens under the reference.
        estimator: see :class:`~llava_rlhf.functional.estimators.KLEstimator`.

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
