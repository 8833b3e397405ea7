"""From one score per response to one reward per token."""

from __future__ import annotations

import torch
from torch import Tensor

from llava_rlhf.functional.masked import check_mask, last_true_index


def apply_stop_penalty(scores: Tensor, stopped: Tensor, penalty: float, relative: bool) -> Tensor:
    """Scores with a penalty for the responses that never said stop.

    Args:
        scores: float[B].
        stopped: bool[B], True = the response ends with its stop token.
        penalty: added (relative) or taken instead of the score (absolute), in reward-model units; usually negative.
        relative: see ``penalty``.

    Returns:
        float[B]; scores of stopped responses are unchanged.
    """
    check_mask(stopped, scores)
    penalized = scores + penalty if relative else torch.full_like(scores, penalty)
    return torch.where(stopped, scores, penalized)


def ensemble_scores(members: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """What several reward models say together: their mean, less for what they disagree on.

    mean − beta · spread, the spread being the standard deviation over the members, divided by their number. Pessimism
    against reward hacking: "uncertainty-weighted" in Coste et al. 2023 (arXiv 2310.02743), which subtracts the variance and
    not its root, so that its weight is in other units. Members of one base share errors, which no spread shows (Eisenstein
    et al. 2023, arXiv 2312.09244).

    Args:
        members: float[..., K], scores of the same response by K reward models.
        beta: weight of the spread; 0 is the mean.

    Returns:
        Scores and spread, float[...], both in units of the reward models.
    """
    mean = members.mean(dim=-1)
    spread = (members - mean.unsqueeze(-1)).square().mean(dim=-1).sqrt()
    return mean - beta * spread, spread


def token_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float, early: Tensor | None = None
) -> Tensor:
    """``-kl_coef * kl`` on every real token, plus the response's score on its last real token.

    Args:
        scores: float[B], the score with all its terms.
        kl: float[B, T] in nats, any values on padding.
        mask: bool[B, T], True = real response token.
        kl_coef: reward-model units per nat.
        early: float[B, T], the part of each score that earlier tokens earn; the last one earns the rest. None: nothing.

    Returns:
        float[B, T], zero on padding.

    Raises:
        ValueError: a row has no real token that could carry its score.
    """
    check_mask(mask, kl)
    assert scores.shape == mask.shape[:1], (scores.shape, mask.shape)
    last = last_true_index(mask).unsqueeze(1)
    rewards = (-kl_coef * kl).masked_fill(~mask, 0.0)
    if early is not None:
        rewards, scores = rewards + early, scores - early.sum(dim=1)
    return rewards.scatter_add(1, last, scores.unsqueeze(1).to(rewards.dtype))
