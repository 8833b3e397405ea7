"""From the reward model's score to what a response earns: penalties, symbolic terms, KL, scale (arXiv 2309.14525)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava_rlhf.functional.kl import kl_estimate
from llava_rlhf.functional.rewards import apply_stop_penalty, token_rewards
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.rollout import Experience
from llava_rlhf.ppo.symbolic_rewards import correctness, length_term


@dataclass(frozen=True)
class ShapedReward:
    """Each term of the reward of R responses.

    Attributes:
        stop_penalty, length_bonus, correct_bonus: float32[R], what each term changed in the score.
        score: float32[R], reward model and all terms.
        kl: float32[R, T] estimate per token in nats; 0 where not counted.
        non_score: float32[R, T], −kl_coef · KL.
        rewards: float32[R, T], non_score plus the score on the last column that counts; neither scaled nor whitened.
    """

    stop_penalty: Tensor
    length_bonus: Tensor
    correct_bonus: Tensor
    score: Tensor
    kl: Tensor
    non_score: Tensor
    rewards: Tensor


def shape_rewards(
    experience: Experience, response_len: int, arguments: RewardArguments, kl_coef: float
) -> ShapedReward:
    """Add up the terms of spec: score + stop penalty + length term + correctness + bias, minus the KL penalty.

    Args:
        experience: rollouts with the reward model's scores.
        response_len: the length that the length term is relative to, in tokens.
        arguments: weights and switches of the terms.
        kl_coef: current weight of the KL penalty.
    """
    raw, device = experience.scores, experience.scores.device
    score = raw
    if arguments.penalize_no_stop_token:
        score = apply_stop_penalty(
            raw, experience.stopped, arguments.penalty_reward_value, arguments.relative_stop_token_penalty
        )
    stop_penalty = score - raw
    multipliers = torch.tensor([item.length_bonus for item in experience.items], device=device)
    length_bonus = arguments.length_bonus_score * length_term(experience.lengths, response_len, multipliers)
    correct = [
        correctness(text, item.answer_type)
        for text, item in zip(experience.texts, experience.items, strict=True)
    ]
    correct_bonus = arguments.correct_bonus_score * torch.tensor(correct, device=device, dtype=raw.dtype)
    score = score + length_bonus + correct_bonus + arguments.reward_bias

    counted = experience.counted
    kl = kl_estimate(experience.log_probs, experience.ref_log_probs, arguments.kl_estimator) * counted
    rewards = token_rewards(score, kl, counted, kl_coef)
    return ShapedReward(stop_penalty, length_bonus, correct_bonus, score, kl, -kl_coef * kl, rewards)
