"""From rewards to what an update aims at: advantages and, for a critic, returns; over all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_rlhf.functional.advantages import generalized_advantages
from llava_rlhf.functional.group_advantages import (
    group_relative_advantages,
    leave_one_out_advantages,
    rewards_to_go,
)
from llava_rlhf.functional.losses import explained_variance
from llava_rlhf.functional.masked import Moments, moments, whiten
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.return_normalizer import ReturnNormalizer
from llava_rlhf.ppo.reward_shaping import ShapedReward
from llava_rlhf.runs.reductions import global_moments, global_rows, global_sums, own_rows


@dataclass(frozen=True)
class Targets:
    """What the update aims at: float32[R, T], 0 at padding.

    Attributes:
        advantages: of every token, cut off if a clip is set.
        learned: bool[R, T], True where a column counts and its response is not masked.
        returns, values: what the critic shall say, and what it said; None without one.
        seen: moments of the returns over all processes; None without a critic.
        first: of returns without a critic, where its units have not begun.
    """

    advantages: Tensor
    learned: Tensor
    returns: Tensor | None = None
    values: Tensor | None = None
    seen: Moments | None = None
    first: Moments | None = None


@dataclass
class TargetMaker:
    """Advantages and returns of a PPO step.

    Attributes:
        accelerator: processes.
        arguments, rewards, estimator, loss: numbers.
        normalizer: the critic's units; None: those of the rewards.
    """

    accelerator: Accelerator
    arguments: PPOArguments
    rewards: RewardArguments
    estimator: EstimatorArguments = field(default_factory=EstimatorArguments)
    loss: LossArguments = field(default_factory=LossArguments)
    normalizer: ReturnNormalizer | None = None
    _undo: Callable[[], None] | None = field(default=None, init=False)

    def make(self, experience: Experience, shaped: ShapedReward) -> tuple[Targets, dict[str, float]]:
        """Targets in units of the rewards, and the metrics of them. Called on every process; moves no units."""
        self._undo = None
        mask = experience.counted & ~shaped.masked.unsqueeze(1)
        rewards = self._scaled(shaped.rewards, experience.counted, mask)
        sums = global_sums(self.accelerator, {"rows": len(mask), "shaped": shaped.rewards.sum()})
        metrics = {"objective/shaped_rewards": sums["shaped"] / sums["rows"]}
        groups = self._groups(rewards) if self.estimator.samples_per_prompt > 1 else None
        if groups is not None:
            metrics |= self._group_metrics(groups, shaped.score)
        if self.estimator.has_critic:
            targets, measured = self._with_critic(experience.values, rewards, mask)
        else:
            targets, measured = self._without_critic(rewards, groups, mask)
        advantages = targets.advantages
        if self.estimator.whitens:
            everywhere = global_moments(self.accelerator, moments(advantages, mask))
            advantages = _whiten(advantages, mask, everywhere, shift_mean=True)
        advantages, cut_off = self._cut_off(advantages, mask)
        return replace(targets, advantages=advantages), metrics | measured | cut_off

    def _cut_off(self, advantages: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, float]]:
        clip = self.loss.advantage_clip
        if clip is None:
            return advantages, {}
        counts = {"past": (advantages.abs() > clip).sum(), "tokens": mask.sum()}
        counts = global_sums(self.accelerator, counts)
        share = counts["past"] / max(counts["tokens"], 1)
        return advantages.clamp(-clip, clip), {"ppo/advantages/clipfrac": share}

    def _with_critic(
        self, outputs: Tensor, rewards: Tensor, mask: Tensor
    ) -> tuple[Targets, dict[str, float]]:
        values, first = self._values(outputs, rewards, mask)
        advantages, returns = generalized_advantages(
            rewards, values, mask, self.arguments.gamma, self.arguments.lam
        )
        return_moments = global_moments(self.accelerator, moments(returns, mask))
        value_moments = global_moments(self.accelerator, moments(values, mask))
        residual = global_moments(self.accelerator, moments(returns - values, mask))
        metrics = {
            "ppo/returns/mean": float(return_moments.mean),
            "ppo/returns/var": _var(return_moments),
            "ppo/val/mean": float(value_moments.mean),
            "ppo/val/var": _var(value_moments),
            "ppo/val/explained_variance": float(explained_variance(residual, return_moments)),
        }
        return Targets(advantages, mask, returns, values, return_moments, first), metrics

    def _without_critic(
        self, rewards: Tensor, groups: Tensor | None, mask: Tensor
    ) -> tuple[Targets, dict[str, float]]:
        """An advantage for each token (`reinforce`) or for each answer, which all of its tokens share."""
        if self.estimator.compares_in_groups:
            if self.estimator.advantage_estimator == "rloo":
                found = leave_one_out_advantages(groups)
            else:
                found = group_relative_advantages(groups, self.estimator.divides_by_group_spread)
            own = own_rows(self.accelerator, found.flatten())
            advantages = own.to(rewards.dtype).unsqueeze(1).to(rewards.device) * mask
        else:
            advantages = rewards_to_go(rewards, mask, self.arguments.gamma)
        returns = global_moments(self.accelerator, moments(rewards.sum(dim=1), mask.any(dim=1)))
        metrics = {"ppo/returns/mean": float(returns.mean), "ppo/returns/var": _var(returns)}
        return Targets(advantages, mask), metrics

    def _groups(self, rewards: Tensor) -> Tensor:
        """float64[G, K]: what all answers of all processes earned, by prompt."""
        everyone = global_rows(self.accelerator, rewards.double().sum(dim=1))
        return everyone.view(-1, self.estimator.samples_per_prompt)

    def _group_metrics(self, groups: Tensor, scores: Tensor) -> dict[str, float]:
        """How far the rewards of one prompt lie apart, the prompts' means from each other, and where scores alone do not."""
        scored = self._groups(scores.unsqueeze(1))  # their KL differs in any case
        alike = scored.amax(dim=1) == scored.amin(dim=1)
        return {
            "ppo/groups/spread_within": float(groups.var(dim=1, correction=0).mean().sqrt()),
            "ppo/groups/spread_across": float(groups.mean(dim=1).std(correction=0)),
            "ppo/groups/without_spread": float(alike.double().mean()),
        }

    def in_critics_units(self, targets: Targets) -> Targets:
        """The same for the critic, whose units move with them: from here on the step must be ended, or `undo_units` called."""
        units = self.normalizer
        if units is None or targets.seen.count == 0:
            return targets
        self._undo = units.undo()
        if targets.first is not None:
            units.begin(targets.first)
        units.update(targets.seen)
        returns, values = (
            units.outputs(numbers).masked_fill(~targets.learned, 0.0)
            for numbers in (targets.returns, targets.values)
        )
        return replace(targets, returns=returns, values=values)

    def undo_units(self) -> None:
        """Take back what `in_critics_units` moved, if it did since `make`; for a PPO step that moved no other weight."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _scaled(self, rewards: Tensor, counted: Tensor, mask: Tensor) -> Tensor:
        """In units of what is learned from; what a masked response earned stands in its group, so it is scaled, too."""
        if not self.rewards.whiten_rewards:
            return rewards * self.rewards.reward_scale
        everywhere = global_moments(self.accelerator, moments(rewards, mask))
        return _whiten(rewards, counted, everywhere, shift_mean=False)

    def _values(self, outputs: Tensor, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Moments | None]:
        """What the critic said, in units of the rewards; and the returns from which its units begin, if they do."""
        units = self.normalizer
        if units is None:
            return outputs, None
        first = None
        if not units.begun:
            to_go = rewards_to_go(rewards, mask, self.arguments.gamma)
            first = global_moments(self.accelerator, moments(to_go, mask))
            if first.count == 0:
                return outputs, None
            units = ReturnNormalizer(units.head)
            units.begin(first)
        return units.values(outputs).masked_fill(~mask, 0.0), first


# Where every response is masked there are no numbers, and nothing is learned.
def _whiten(x: Tensor, mask: Tensor, everywhere: Moments, shift_mean: bool) -> Tensor:
    return torch.zeros_like(x) if everywhere.count == 0 else whiten(x, mask, everywhere, shift_mean)


def _var(numbers: Moments) -> float:
    return float(numbers.var) if numbers.count > 0 else 0.0
