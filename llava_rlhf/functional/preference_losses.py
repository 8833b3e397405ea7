"""Losses of a policy that learns from preferences directly, without a reward model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llava_rlhf.functional.losses import LossSum


def dpo_loss(log_ratios: Tensor, mask: Tensor, beta: float, label_smoothing: float = 0.0) -> LossSum:
    """Direct preference optimisation (arXiv 2305.18290, equation 7), with the labels of cDPO.

    −(1 − e) log σ(m) − e log σ(−m) with the margin m = beta (log-ratio of the preferred answer − that of the other); e > 0
    takes a share e of the labels to be wrong (E. Mitchell, "A note on DPO with noisy preferences", 2023, equation 3).

    Args:
        log_ratios: float[B, 2], log p − log p_ref of both answers as wholes (nats), the preferred one first.
        mask: bool[B], True = a pair; the others get gradient 0 whatever they hold.
        beta: weight of the KL to the reference, > 0.
        label_smoothing: e, at least 0 and below 0.5.

    Returns:
        The summed loss, its count of pairs, and sums over them: ``chosen_reward`` and ``rejected_reward`` (beta times the
        log-ratio), ``reward_margin`` (m) and ``accuracy`` (1 where m > 0, 1/2 where it is 0).
    """
    assert log_ratios.shape == (len(mask), 2) and mask.dtype == torch.bool, (log_ratios.shape, mask.shape)
    rewards = beta * log_ratios.masked_fill(~mask.unsqueeze(1), 0.0)
    margins = rewards[:, 0] - rewards[:, 1]
    losses = -(1.0 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)
    known = rewards.detach()
    stats = {
        "chosen_reward": known[:, 0].sum(),
        "rejected_reward": known[:, 1].sum(),
        "reward_margin": margins.detach().sum(),
        "accuracy": ((margins.detach().sign() + 1) / 2)[mask].sum(),
    }
    return LossSum(losses[mask].sum(), mask.sum().to(losses.dtype), stats)
