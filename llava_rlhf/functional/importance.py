"""Answers that another engine drew than the model that trains: how far the two differ, and weights against it.

An engine with other arithmetic (kernels, precision, a quantised base) draws each token with its own probability q, where the
model that trains says p. What is averaged over its tokens is then an average under q.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_rlhf.functional.masked import check_mask


def engine_log_ratio(log_probs: Tensor, engine_log_probs: Tensor, mask: Tensor) -> Tensor:
    """log p − log q of every token.

    Args:
        log_probs: float[B, T] in nats, of the sampled tokens under the model that trains, as it was when they were sampled.
        engine_log_probs: float[B, T] in nats, of the same tokens, as the engine that drew them says.
        mask: bool[B, T], True = real response token; the others are 0 whatever they hold.

    Returns:
        float[B, T] in nats, constants.
    """
    check_mask(mask, log_probs, engine_log_probs)
    return (log_probs - engine_log_probs).detach().masked_fill(~mask, 0.0)


def truncated_importance_weights(log_ratio: Tensor, cap: float) -> Tensor:
    """min(p / q, cap) of every token, a constant.

    A mean over what q draws of (p / q) · x is the mean of x over what p draws, but has a large variance where p / q does; cut
    off it has a bounded one, for a small bias (Ionides 2008, "Truncated Importance Sampling", Journal of Computational and
    Graphical Statistics 17(2)). For tokens of an engine that answers with other numerics, times the policy's loss of the
    token: Yao, Liu, Zhang, Dong, Shang and Gao 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training".

    Args:
        log_ratio: float[B, T] in nats, from :func:`engine_log_ratio`; 0 gives exactly 1.
        cap: at least 1.

    Returns:
        float[B, T] in (0, cap].
    """
    return torch.clamp(log_ratio.exp(), max=cap)
