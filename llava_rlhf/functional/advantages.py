"""Generalized advantage estimation over responses of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from llava_rlhf.functional.masked import check_mask


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns by GAE (Schulman et al. 2016, arXiv 1506.02438, equations 11, 12 and 16).

    With delta_t = r_t + gamma * V_(t+1) - V_t and V = 0 after the last real token:
    A_t = delta_t + gamma * lam * A_(t+1), and the return is A_t + V_t. Padding is stepped over as if it were not there.

    Args:
        rewards: float[B, T].
        values: float[B, T], the value before each token.
        mask: bool[B, T], True = real response token.
        gamma: discount per token.
        lam: 1 = Monte Carlo returns, 0 = one-step differences.

    Returns:
        advantages float[B, T] and returns float[B, T], both zero on padding.
    """
    check_mask(mask, rewards, values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    columns = []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    returns = advantages + values
    return advantages.masked_fill(~mask, 0.0), returns.masked_fill(~mask, 0.0)
