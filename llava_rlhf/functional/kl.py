"""Per-token estimates of KL(policy || reference) from one sampled token each."""

from __future__ import annotations

import torch
from torch import Tensor

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.losses import LossSum, weighted_sum
from llava_rlhf.functional.masked import check_mask, masked_sum


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
    if estimator is KLEstimator.K2:
        return 0.5 * log_ratio.square()
    if estimator is KLEstimator.K3:
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(
        f"unknown KL estimator {estimator!r}: use one of {[member.value for member in KLEstimator]}"
    )


def kl_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    ref_log_probs: Tensor,
    mask: Tensor,
    estimator: KLEstimator,
    weights: Tensor | None = None,
) -> LossSum:
    """KL(policy || reference) as a term of a loss, from tokens that an older policy sampled.

    With rho = p / p_old of the sampled token the term is rho · k(log p, log p_ref) for k1 and k3, and stop_gradient(rho) ·
    d² / 2 for k2. Its gradient, averaged over what the older policy samples, is that of the divergence itself: for k1 and
    k3 the average is the divergence (importance sampling), for k2 it is Σ p · (log p − log p_ref) · ∇ log p. Without rho
    k1 has no gradient on average, and k3 that of another divergence (arXiv 2510.01555; rho · k3: arXiv 2512.02556,
    equation 7).

    Args:
        log_probs: float[B, T] under the policy being trained.
        old_log_probs: float[B, T] under the policy that sampled.
        ref_log_probs: float[B, T] under the reference.
        mask: bool[B, T], True = real response token; the others get gradient 0 whatever they hold.
        estimator: not ``k1_clamped``, whose gradient is that of no divergence.
        weights: float[B] or float[B, T], as for :func:`~llava_rlhf.functional.losses.policy_loss`.

    Returns:
        The summed term in nats; stats ``loss/kl``, the same unweighted.

    Raises:
        ValueError: an estimator without such a term.
    """
    if estimator is KLEstimator.K1_CLAMPED:
        raise ValueError("k1_clamped has the gradient of no divergence: a loss takes k1, k2 or k3")
    check_mask(mask, log_probs, old_log_probs, ref_log_probs)
    log_probs, old_log_probs, ref_log_probs = (
        x.masked_fill(~mask, 0.0) for x in (log_probs, old_log_probs, ref_log_probs)
    )
    ratio = (log_probs - old_log_probs).exp()
    if estimator is KLEstimator.K2:
        ratio = ratio.detach()
    kl = ratio * kl_estimate(log_probs, ref_log_probs, estimator)
    stats = {"loss/kl": masked_sum(kl.detach(), mask)}
    return LossSum(weighted_sum(kl, mask, weights), mask.sum().to(kl.dtype), stats)
