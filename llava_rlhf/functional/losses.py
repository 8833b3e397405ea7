"""Losses of PPO and of the reward model.

A token loss is a sum and a count: dividing each process's sum by its own count would weigh a token by the length of its
neighbours. The caller adds both over processes and micro-batches and divides once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from llava_rlhf.functional.masked import Moments, check_mask, masked_sum


class LossSum(NamedTuple):
    """A loss before its one division.

    ``sum`` is a differentiable scalar, ``count`` the number of real tokens in it (scalar of the same dtype), ``stats``
    detached scalars under their metric names, each also a SUM over the same tokens.
    """

    sum: Tensor
    count: Tensor
    stats: dict[str, Tensor]

    def detached(self) -> LossSum:
        """The same numbers without the graph."""
        return self._replace(sum=self.sum.detach())


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    weights: Tensor | None = None,
) -> LossSum:
    """PPO's clipped surrogate, max(-A rho, -A clip(rho, 1 - low, 1 + high)) (arXiv 1707.06347, equation 7).

    Args:
        log_probs: float[B, T] under the policy being trained.
        old_log_probs: float[B, T] under the policy that sampled.
        advantages: float[B, T], constants.
        mask: bool[B, T], True = real response token; the others get gradient 0 whatever they hold.
        cliprange: how far below 1 the ratio is followed, and above it, too, unless there is ``cliprange_high``.
        cliprange_high: how far above 1 (clip-higher: arXiv 2503.14476, section 3.1).
        dual_clip: c > 1; where A < 0 the loss is at most -A c (dual clip: arXiv 1912.09729). None: no such bound.
        weights: float[B], what each token of a response weighs in the sum (:func:`response_weights`), or float[B, T], what each
            token weighs, constants; None: 1.

    Returns:
        The summed loss; stats, unweighted: ``policy/approxkl`` (half the squared log-ratio, nats), ``policy/clipfrac``
        (tokens whose clipped term is the larger one) and, with ``dual_clip``, ``policy/dual_clipfrac`` (tokens at that
        bound).
    """
    check_mask(mask, log_probs, old_log_probs, advantages)
    # Filled before exp: a masked_fill afterwards would turn an infinite ratio on padding into a NaN gradient.
    log_ratio = (log_probs - old_log_probs).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    high = cliprange if cliprange_high is None else cliprange_high
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + high)
    loss = torch.maximum(unclipped, clipped)
    stats = {
        "policy/approxkl": 0.5 * masked_sum(log_ratio.detach().square(), mask),
        "policy/clipfrac": masked_sum((clipped > unclipped).to(ratio.dtype), mask),
    }
    if dual_clip is not None:
        bound = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        stats["policy/dual_clipfrac"] = masked_sum((loss > bound).to(ratio.dtype), mask)
        loss = torch.minimum(loss, bound)
    return LossSum(weighted_sum(loss, mask, weights), mask.sum().to(ratio.dtype), stats)


def response_weights(mask: Tensor, tokens: Tensor, rollouts: Tensor, length: int | None = None) -> Tensor:
    """What each token of a response weighs, so that a sum over tokens divided by ``tokens`` becomes a mean over responses.

    Args:
        mask: bool[B, T], True = real response token.
        tokens: scalar, real tokens of the whole optimizer step, over all processes.
        rollouts: scalar, responses of the whole optimizer step that have such a token.
        length: tokens that every response is divided by (Dr. GRPO, arXiv 2503.20783); None: its own tokens,
            so that the mean over responses is one of means over their tokens (GRPO, arXiv 2402.03300, equation 3).

    Returns:
        float32[B], tokens / (rollouts · length).
    """
    check_mask(mask)
    lengths = mask.sum(dim=1).clamp_min(1) if length is None else torch.full_like(mask[:, 0].long(), length)
    return tokens / (rollouts * lengths).float()


def weighted_sum(x: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of ``x``, float[B, T], where ``mask`` is True, each row times its weight float[B], or each token float[B, T]; None: 1.

    Weights of tokens must be finite, on padding, too.
    """
    if weights is None:
        return masked_sum(x, mask)
    return masked_sum(x * (weights if weights.ndim == 2 else weights.unsqueeze(1)), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float
) -> LossSum:
    """Clipped value loss, 1/2 max((V - R)^2, (clip(V, V_old +- cliprange_value) - R)^2), without its coefficient.

    Args:
        values: float[B, T] predicted by the model being trained.
        old_values: float[B, T] predicted at rollout.
        returns: float[B, T], constants.
        mask: bool[B, T], True = real response token; the others get gradient 0 whatever they hold.
        cliprange_value: half width of the interval around the old value, in units of the rewards.

    Returns:
        The summed loss; stats ``val/vpred`` (V), ``val/error`` ((V - R)^2) and ``val/clipfrac`` (tokens whose clipped
        term is the larger one).
    """
    check_mask(mask, values, old_values, returns)
    values, old_values, returns = (x.masked_fill(~mask, 0.0) for x in (values, old_values, returns))
    clipped_values = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    unclipped = (values - returns).square()
    clipped = (clipped_values - returns).square()
    stats = {
        "val/vpred": masked_sum(values.detach(), mask),
        "val/error": masked_sum(unclipped.detach(), mask),
        "val/clipfrac": masked_sum((clipped > unclipped).to(values.dtype), mask),
    }
    return LossSum(
        0.5 * masked_sum(torch.maximum(unclipped, clipped), mask), mask.sum().to(values.dtype), stats
    )


def pairwise_reward_loss(
    rewards: Tensor, choice: Tensor, center_coef: float = 1e-3, global_center: Tensor | None = None
) -> Tensor:
    """Bradley-Terry loss of preferences, with a weak pull of the rewards towards 0.

    BCEWithLogits(r_1 - r_0, choice) + center_coef * |mean(r_1 + r_0)|, both means over the pairs given.

    Args:
        rewards: float[B, 2], scores of both answers.
        choice: [B], 1 where the second answer is preferred, 0 where the first is.
        center_coef: weight of the pull, which fixes the constant that preferences leave free.
        global_center: mean of r_1 + r_0 over the pairs of all processes. Its sign then replaces the local one in the
            absolute value, and the average of the processes' losses equals the loss of one process with all pairs.

    Returns:
        Scalar.
    """
    assert rewards.ndim == 2 and rewards.shape == (len(choice), 2), (rewards.shape, choice.shape)
    preference = binary_cross_entropy_with_logits(rewards[:, 1] - rewards[:, 0], choice.to(rewards.dtype))
    center = rewards.sum(dim=1).mean()
    sign = (center if global_center is None else global_center).detach().sign()
    return preference + center_coef * sign * center


def pairwise_accuracy(rewards: Tensor, choice: Tensor) -> Tensor:
    """Share of pairs whose preferred answer scores higher; a tie counts one half, as guessing would.

    Args:
        rewards: float[B, 2], scores of both answers.
        choice: [B], 1 where the second answer is preferred, 0 where the first is.

    Returns:
        Scalar in [0, 1], detached.
    """
    assert rewards.ndim == 2 and rewards.shape == (len(choice), 2), (rewards.shape, choice.shape)
    margin = (rewards[:, 1] - rewards[:, 0]).detach().float() * (2 * choice.float() - 1)
    return ((margin.sign() + 1) / 2).mean()


def explained_variance(residuals: Moments, returns: Moments) -> Tensor:
    """1 - var(R - V) / var(R): 1 = perfect values, 0 = as good as a constant, negative = worse.

    Args:
        residuals: moments of R - V over real tokens.
        returns: moments of R over the same tokens.

    Returns:
        float64 scalar; 0 when the returns do not vary, because there is nothing to explain.
    """
    return torch.where(returns.var > 0, 1.0 - residuals.var / returns.var, torch.zeros_like(returns.var))
