"""The policy's loss written out, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.loss_arguments import LossArguments


@dataclass(frozen=True)
class LiteralPolicyLoss:
    """Of one token, and what a sum over the tokens of a response is divided by."""

    ppo: PPOArguments
    shaping: RewardArguments
    loss: LossArguments
    response_len: int

    def share(self, length: int, lengths: Sequence[int]) -> float:
        """What the sum over a response of `length` is multiplied by, among responses of `lengths`."""
        return {
            "token": 1 / sum(lengths),
            "sequence": 1 / (len(lengths) * length),
            "constant": 1 / (len(lengths) * self.response_len),
        }[self.loss.loss_normalization]

    def kl(self, log_ratio: float) -> float:
        """The estimate of a token."""
        return {
            "k1_clamped": max(log_ratio, 0.0),
            "k1": log_ratio,
            "k2": log_ratio**2 / 2,
            "k3": math.exp(-log_ratio) - 1 + log_ratio,
        }[self.shaping.kl_estimator.value]

    def cut_off(self, advantage: float) -> float:
        """The advantage, inside of its clip."""
        clip = self.loss.advantage_clip or math.inf
        return max(-clip, min(clip, advantage))

    def masks(self, length: int) -> bool:
        """Whether nothing is learned from a response of this length that never stopped."""
        return self.loss.overlong_responses == "mask" and length == self.response_len

    def weight(self, old: float, engine: float) -> float:
        """Of a token that an engine drew with log-probability `engine`."""
        if self.loss.importance_correction == "none":
            return 1.0
        return min(math.exp(old - engine), self.loss.importance_cap)

    def of_token(
        self,
        log_prob: Tensor,
        old: Tensor,
        reference: Tensor,
        advantage: float,
        entropy: Tensor,
        engine: Tensor,
    ) -> Tensor:
        """All terms for scalars; `old`, `reference` and `engine` are constants."""
        ratio = (log_prob - old).exp()
        total = self._surrogate(ratio, advantage)
        if self.loss.kl_placement == "loss":
            d = reference - log_prob
            term = {
                "k1": ratio * -d,
                "k2": ratio.detach() * d**2 / 2,
                "k3": ratio * (d.exp() - 1 - d),
            }[self.shaping.kl_estimator.value]
            total = total + self.shaping.kl_coef * term
        return self.weight(float(old), float(engine)) * total - self.loss.entropy_coef * entropy

    def _surrogate(self, ratio: Tensor, advantage: float) -> Tensor:
        low, high = self.ppo.cliprange, self.loss.cliprange_high
        high = low if high is None else high
        loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))
        if self.loss.dual_clip and advantage < 0:
            loss = torch.min(loss, torch.tensor(-advantage * self.loss.dual_clip))
        return loss
