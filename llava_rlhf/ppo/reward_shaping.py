"""From the reward model's score to what a response earns: penalties, symbolic terms, KL, scale (arXiv 2309.14525)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava_rlhf.functional.kl import kl_estimate
from llava_rlhf.functional.rewards import apply_stop_penalty, token_rewards
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.symbolic_rewards import correctness, length_term


@dataclass(frozen=True)
class ShapedReward:
    """Each term of the reward of R responses.

    Attributes:
        stop_penalty, length_bonus, correct_bonus: float32[R], what each term changed in the score.
        fact_mentions, fact_coverage: float32[R], what the things that it names earned, and their share of the facts'; 0
            without a fact reward.
        score: float32[R], reward model and all terms.
        kl: float32[R, T] estimate per token in nats; 0 where not counted.
        non_score: float32[R, T], −kl_coef · KL; 0 where the KL stands in the loss.
        masked: bool[R], True where nothing shall be learned from a response.
        rewards: float32[R, T], non_score plus the score on the last column that counts, less what sentences before the
            last and mentions of things have earned of it on their own columns; neither scaled nor whitened.
    """

    stop_penalty: Tensor
    length_bonus: Tensor
    correct_bonus: Tensor
    fact_mentions: Tensor
    fact_coverage: Tensor
    score: Tensor
    kl: Tensor
    non_score: Tensor
    masked: Tensor
    rewards: Tensor


def shape_rewards(
    experience: Experience,
    response_len: int,
    arguments: RewardArguments,
    kl_coef: float,
    loss: LossArguments | None = None,
) -> ShapedReward:
    """Add up the terms: score + stop penalty + length term + correctness + bias + facts, minus the KL penalty.

    Args:
        experience: rollouts with the reward model's scores.
        response_len: the longest length allowed, in tokens; the length term is relative to it.
        arguments: weights and switches of the terms.
        kl_coef: current weight of the KL penalty.
        loss: says whether that stands in the reward, and what becomes of overlong responses (without a stop token at
            `response_len`; masked: DAPO's overlong filtering, arXiv 2503.14476, section 3.4).
    """
    loss = loss or LossArguments()
    raw, device = arguments.reward_model_coef * experience.scores, experience.scores.device
    score = raw
    overlong = ~experience.stopped & (experience.lengths >= response_len)
    masked = overlong & (loss.overlong_responses == "mask")
    if arguments.penalize_no_stop_token:
        score = apply_stop_penalty(
            raw,
            experience.stopped | masked,
            arguments.penalty_reward_value,
            arguments.relative_stop_token_penalty,
        )
    stop_penalty = score - raw
    multipliers = torch.tensor([item.length_bonus for item in experience.items], device=device)
    length_bonus = arguments.length_bonus_score * length_term(experience.lengths, response_len, multipliers)
    correct = [
        correctness(text, item.answer_type)
        for text, item in zip(experience.texts, experience.items, strict=True)
    ]
    correct_bonus = arguments.correct_bonus_score * torch.tensor(correct, device=device, dtype=raw.dtype)
    fact_mentions = fact_coverage = torch.zeros_like(raw)
    if experience.facts is not None:
        fact_mentions, fact_coverage = (
            experience.facts.by_mentions().to(raw),
            experience.facts.coverage().to(raw),
        )
    score = score + length_bonus + correct_bonus + arguments.reward_bias + fact_mentions + fact_coverage

    counted = experience.counted
    kl = kl_estimate(experience.log_probs, experience.ref_log_probs, arguments.kl_estimator) * counted
    if loss.kl_placement == "loss":
        kl_coef = 0.0
    early = early_rewards(experience, arguments.reward_model_coef)
    rewards = token_rewards(score, kl, counted, kl_coef, early)
    terms = (stop_penalty, length_bonus, correct_bonus, fact_mentions, fact_coverage, score)
    return ShapedReward(*terms, kl, -kl_coef * kl, masked, rewards)


def early_rewards(experience: Experience, reward_model_coef: float) -> Tensor | None:
    """float32[R, T]: what of the scores is earned before the last token, by sentences and mentions; None: nothing."""
    columns, early = experience.counted.shape[1], []
    if experience.sentences is not None:
        early.append(reward_model_coef * experience.sentences.before_the_last(columns))
    if experience.facts is not None:
        early.append(experience.facts.on_mentions(columns))
    return sum(early).to(experience.scores.device) if early else None
