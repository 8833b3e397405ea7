"""What the policy's weights descend: the clipped surrogate and what the settings put beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.importance import engine_log_ratio, truncated_importance_weights
from llava_rlhf.functional.kl import kl_loss
from llava_rlhf.functional.losses import LossSum, policy_loss, response_weights, weighted_sum
from llava_rlhf.functional.masked import masked_sum
from llava_rlhf.ppo.actor_critic import Sequences
from llava_rlhf.ppo.loss_arguments import LossArguments


@dataclass(frozen=True)
class MicroBatch:
    """What one backward pass needs: sequences for both bases, and float32[B, T] of rollout and targets.

    Attributes:
        policy_sequences, value_sequences: prompts with responses as each base sees them.
        counted: bool[B, T], True where log-probabilities are taken.
        learned: bool[B, T], True where losses count.
        old_log_probs, ref_log_probs, old_entropies, old_values: at rollout.
        advantages, returns: constants. What is a critic's is None without one.
        importance: what each token weighs because another engine drew it; None: 1.
    """

    policy_sequences: Sequences
    value_sequences: Sequences | None
    counted: Tensor
    learned: Tensor
    old_log_probs: Tensor
    ref_log_probs: Tensor
    old_entropies: Tensor | None
    old_values: Tensor | None
    advantages: Tensor
    returns: Tensor | None
    importance: Tensor | None = None


class StepTotals(NamedTuple):
    """What the micro-batches of an optimizer step share.

    Attributes:
        tokens: int64 scalar, tokens that are learned from over all processes and micro-batches, at least 1: the one division.
        rollouts: int64 scalar, responses with such a token, at least 1.
        kl_coef: weight of the KL penalty in this PPO step.
        critic_alone: whether the policy rests.
    """

    tokens: Tensor
    rollouts: Tensor
    kl_coef: float
    critic_alone: bool


@dataclass(frozen=True)
class PolicyObjective:
    """The policy's loss.

    Attributes:
        cliprange: of the probability ratio.
        loss: what else there is.
        kl_estimator: of a KL term.
        response_len: longest response in tokens.
    """

    cliprange: float
    loss: LossArguments
    kl_estimator: KLEstimator
    response_len: int

    @property
    def kl_limit(self) -> float | None:
        """Mean approxkl (nats) of an optimizer step above which its PPO step takes no other."""
        return self.loss.update_kl_limit

    def importance(self, log_probs: Tensor, engine_log_probs: Tensor | None, mask: Tensor) -> Tensor | None:
        """float32[B, T]: what tokens weigh that an engine drew, 1 where not real; None where that is not corrected.

        Args:
            log_probs, engine_log_probs: float32[B, T] at rollout, of the model that trains and of the engine.
            mask: bool[B, T], True at real tokens; padding was drawn by nobody.
        """
        if self.loss.importance_correction == "none":
            return None
        ratio = engine_log_ratio(log_probs, engine_log_probs, mask)
        return truncated_importance_weights(ratio, self.loss.importance_cap)

    def of(self, batch: MicroBatch, log_probs: Tensor, entropy: Tensor | None, totals: StepTotals) -> LossSum:
        """The loss of a micro-batch before its division by `totals.tokens`.

        Args:
            batch: rollouts and targets.
            log_probs, entropy: float32[B, T] of the policy as it is now; the entropy may be missing.
            totals: of the whole optimizer step.
        """
        mask, weights = batch.learned, self._weights(batch, totals)
        # Both are means over the tokens that were drawn; the entropy is exact, whoever drew them.
        drawn = _of_drawn_tokens(weights, batch.importance)
        loss = policy_loss(
            *(log_probs, batch.old_log_probs, batch.advantages, mask, self.cliprange),
            cliprange_high=self.loss.cliprange_high,
            dual_clip=self.loss.dual_clip,
            weights=drawn,
        )
        total, stats = loss.sum, loss.stats
        if self.loss.kl_placement == "loss":
            kl = kl_loss(
                *(log_probs, batch.old_log_probs, batch.ref_log_probs, mask, self.kl_estimator, drawn)
            )
            total, stats = total + totals.kl_coef * kl.sum, stats | kl.stats
        if entropy is not None:
            stats["policy/entropy"] = masked_sum(entropy.detach(), mask)
        if self.loss.entropy_coef:
            total = total - self.loss.entropy_coef * weighted_sum(entropy, mask, weights)
        return LossSum(total, loss.count, stats)

    def _weights(self, batch: MicroBatch, totals: StepTotals) -> Tensor | None:
        if self.loss.loss_normalization == "token":
            return None
        length = self.response_len if self.loss.loss_normalization == "constant" else None
        return response_weights(batch.learned, totals.tokens, totals.rollouts, length)


def _of_drawn_tokens(weights: Tensor | None, importance: Tensor | None) -> Tensor | None:
    """Weights of responses float[B] or None, and of tokens float[B, T] or None, in one."""
    if importance is None:
        return weights
    return importance if weights is None else weights.unsqueeze(1) * importance
