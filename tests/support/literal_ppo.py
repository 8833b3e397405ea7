"""PPO written out: row by row, without padding, batches, chunks or adapters that share a base. Slow on purpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data_utils.items import PromptItem
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.symbolic_rewards import correctness
from tests.support.plain_models import Images, PlainRole
from tests.support.tiny_models import STOP


@dataclass
class Row:
    """One rollout and everything said of it; lists run over its tokens."""

    item: PromptItem
    response: list[int]
    text: str
    log_probs: Tensor | None = None
    values: Tensor | None = None
    rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


class LiteralPPO:
    """Two trained roles, two frozen ones, one AdamW."""

    def __init__(
        self,
        policy_base: Path,
        reward_base: Path,
        policy: Path,
        reward: Path,
        ppo: PPOArguments,
        shaping: RewardArguments,
        response_len: int,
        stops: Sequence[int] = (STOP,),
    ):
        adapter, reward_adapter = policy / "lora_policy", reward / "lora_reward"
        self.policy = PlainRole(policy_base, adapter, trainable=True)
        self.reference = PlainRole(policy_base, adapter)
        self.value = PlainRole(reward_base, reward_adapter, trainable=True)
        self.reward = PlainRole(reward_base, reward_adapter, reward / "reward_head.safetensors")
        self.groups = (
            self.policy.adapter_parameters(),
            [*self.value.adapter_parameters(), self.value.weight, self.value.bias],
        )
        self.optimizer = torch.optim.AdamW(
            [weight for group in self.groups for weight in group], lr=ppo.learning_rate, weight_decay=0.0
        )
        self.ppo, self.shaping, self.response_len, self.stops = ppo, shaping, response_len, stops

    def step(self, rows: list[Row]) -> dict[str, float]:
        """One PPO step in which every optimizer step takes all rows."""
        metrics = self._look(rows)
        self._shape(rows)
        metrics["ppo/returns/mean"] = _mean([value for row in rows for value in row.returns])
        tokens = sum(len(row.response) for row in rows)
        sums: dict[str, float] = {"ppo/loss/policy": 0.0, "ppo/loss/value": 0.0, "ppo/policy/approxkl": 0.0}
        norms = [0.0, 0.0]
        for _ in range(self.ppo.noptepochs):
            self.optimizer.zero_grad()
            for row in rows:
                policy, value, approxkl = self._losses(row)
                ((policy + self.ppo.vf_coef * value) / tokens).backward()
                for name, number in zip(sums, (policy, value, approxkl), strict=True):
                    sums[name] += float(number.detach()) / tokens / self.ppo.noptepochs
            for index, group in enumerate(self.groups):
                norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in group))
                norms[index] += norm / self.ppo.noptepochs
                scale = min(1.0, self.ppo.max_grad_norm / (norm + 1e-6))
                for weight in group:
                    weight.grad *= scale
            self.optimizer.step()
        return metrics | sums | {"ppo/loss/grad_norm_policy": norms[0], "ppo/loss/grad_norm_value": norms[1]}

    @torch.no_grad()
    def _look(self, rows: list[Row]) -> dict[str, float]:
        kls, log_ratios, scores = [], [], []
        for row in rows:
            item, (images, reward_images) = row.item, seen(row.item)
            asked = (item.query_ids, row.response, images, self.ppo.temperature)
            row.log_probs, _ = self.policy.response_log_probs(*asked)
            reference, _ = self.reference.response_log_probs(*asked)
            row.values = self.value.response_values(item.query_ids, row.response, reward_images)
            score = float(
                self.reward.score([*item.query_ids, *row.response, *item.reward_prompt_ids], reward_images)
            )
            if row.response[-1] not in self.stops:
                score += self.shaping.penalty_reward_value
            share = len(row.response) / self.response_len
            score += self.shaping.length_bonus_score * share * item.length_bonus
            score += self.shaping.correct_bonus_score * correctness(row.text, item.answer_type)
            ratios = [
                mine - its for mine, its in zip(row.log_probs.tolist(), reference.tolist(), strict=True)
            ]
            kl = [self._kl(ratio) for ratio in ratios]
            row.rewards = [-self.shaping.kl_coef * number for number in kl]
            row.rewards[-1] += score
            kls.append(sum(kl))
            log_ratios.append(sum(ratios))
            scores.append(score)
        return {
            "objective/kl_sum_seq": _mean(kls),
            "objective/log_ratio": _mean(log_ratios),
            "objective/rewards": _mean(scores),
        }

    def _kl(self, log_ratio: float) -> float:
        if self.shaping.kl_estimator == "k3":
            return math.exp(-log_ratio) - 1 + log_ratio
        return max(log_ratio, 0.0) if self.shaping.kl_estimator == "k1_clamped" else log_ratio

    def _shape(self, rows: list[Row]) -> None:
        if self.shaping.whiten_rewards:
            every = [number for row in rows for number in row.rewards]
            mean, std = _mean(every), _std(every)
            for row in rows:
                row.rewards = [(number - mean) / (std + 1e-8) + mean for number in row.rewards]
        else:
            for row in rows:
                row.rewards = [number * self.shaping.reward_scale for number in row.rewards]
        gamma, lam = self.ppo.gamma, self.ppo.lam
        for row in rows:
            values = [*row.values.tolist(), 0.0]
            # A_t = Σ_k (γλ)^k δ_(t+k), written as the double sum that it is.
            deltas = [row.rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(row.response))]
            row.advantages = [
                sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
                for t in range(len(deltas))
            ]
            row.returns = [advantage + values[t] for t, advantage in enumerate(row.advantages)]
        every = [number for row in rows for number in row.advantages]
        mean, std = _mean(every), _std(every)
        for row in rows:
            row.advantages = [(number - mean) / (std + 1e-8) for number in row.advantages]

    def _losses(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        item, (images, reward_images) = row.item, seen(row.item)
        log_probs, _ = self.policy.response_log_probs(
            item.query_ids, row.response, images, self.ppo.temperature
        )
        values = self.value.response_values(item.query_ids, row.response, reward_images)
        policy, value, approxkl = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for t in range(len(row.response)):
            ratio = (log_probs[t] - row.log_probs[t]).exp()
            clip = self.ppo.cliprange
            advantage = row.advantages[t]
            policy = policy + torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))
            old, width = row.values[t], self.ppo.cliprange_value
            clipped = torch.max(torch.min(values[t], old + width), old - width)
            target = row.returns[t]
            value = value + 0.5 * torch.max((values[t] - target) ** 2, (clipped - target) ** 2)
            approxkl = approxkl + 0.5 * (log_probs[t] - row.log_probs[t]).detach() ** 2
        return policy, value, approxkl


def seen(item: PromptItem) -> tuple[Images, Images]:
    """The images of a prompt as policy and reward model see them."""
    images = item.images if item.grids is None else (item.images, item.grids)
    if item.reward_images is None:
        return images, images
    return images, item.reward_images if item.reward_grids is None else (
        item.reward_images,
        item.reward_grids,
    )


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _std(numbers: list[float]) -> float:
    mean = _mean(numbers)
    return math.sqrt(_mean([(number - mean) ** 2 for number in numbers]))
