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


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """``-kl_coef * kl`` on every real token, plus the response's score on its last real token.

    Args:
        scores: float[B], the score with all its terms.
        kl: float[B, T] in nats, any values on padding.
        mask: bool[B, T], True = real response token.
        kl_coef: reward-model units per nat.

    Returns:
        float[B, T], zero on padding.

    Raises:
        ValueError: a row has no real token that could carry its score.
    """
    check_mask(mask, kl)
    assert scores.shape == mask.shape[:1], (scores.shape, mask.shape)
    last = last_true_index(mask).unsqueeze(1)
    rewards = (-kl_coef * kl).masked_fill(~mask, 0.0)
    return rewards.scatter_add(1, last, scores.unsqueeze(1).to(rewards.dtype))
