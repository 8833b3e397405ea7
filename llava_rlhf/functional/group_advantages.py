"""Advantages without a critic: an answer against other answers, or against nothing but what it earned."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-6  # added to a group's spread; a group of equal rewards has advantages of 0


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """RLOO (Ahmadian et al. 2024, arXiv 2402.14740, section 2.3): r_i less the mean of the group's other rewards.

    Args:
        rewards: float[G, K] of K > 1 answers to each of G prompts.

    Returns:
        float[G, K].
    """
    size = rewards.shape[1]
    assert size > 1, "a group of one has no others"
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (size - 1)
    return rewards - others


def group_relative_advantages(rewards: Tensor, divide_by_spread: bool) -> Tensor:
    """GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1.2): (r_i - mean) / standard deviation of the group.

    The deviation is that of a sample (K - 1). Without the division it is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).

    Args:
        rewards: float[G, K] of K > 1 answers to each of G prompts; float64, so that equal rewards give exactly 0.
        divide_by_spread: whether to divide.

    Returns:
        float[G, K].
    """
    assert rewards.shape[1] > 1, "a group of one has no spread"
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if not divide_by_spread:
        return advantages
    return advantages / (rewards.std(dim=1, keepdim=True) + SMALLEST_SPREAD)


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted sums of what is still to come (Williams 1992): G_t = r_t + gamma * G_(t+1).

    Args:
        rewards: float[B, T].
        mask: bool[B, T], True = real response token; padding is stepped over.
        gamma: discount per token.

    Returns:
        float[B, T], 0 on padding.
    """
    later = torch.zeros_like(rewards[:, 0])
    columns = []
    for t in reversed(range(rewards.shape[1])):
        later = torch.where(mask[:, t], rewards[:, t] + gamma * later, later)
        columns.append(later)
    return torch.stack(columns[::-1], dim=1).masked_fill(~mask, 0.0)
