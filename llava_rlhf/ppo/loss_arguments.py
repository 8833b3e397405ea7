"""Settings of the policy's loss."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import Literal

from llava_rlhf.engines.arguments import LOCAL
from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.ppo.numerics import Numerics

IMPORTANCE_CAP = 2.0  # by default


@dataclass
class LossArguments:
    """What the policy's loss is made of; every default is as published."""

    _argument_group_name = "policy loss"

    kl_placement: Literal["reward", "loss"] = field(
        default="reward",
        metadata={
            "help": "Where --kl_coef times the KL to the reference stands: reward, as published; loss: a term of the policy's "
            "loss with the exact gradient, for --kl_estimator k1, k2 or k3."
        },
    )
    cliprange_high: float | None = field(
        default=None,
        metadata={
            "help": "Clip of the probability ratio above 1, where --cliprange holds below (clip-higher); default: the same."
        },
    )
    dual_clip: float | None = field(
        default=None,
        metadata={
            "help": "Above 1: a token of advantage A < 0 has at most the loss -A times this, however likely it became; "
            "default: no bound."
        },
    )
    loss_normalization: Literal["token", "sequence", "constant"] = field(
        default="token",
        metadata={
            "help": "What the policy's loss is a mean over: token: all tokens of an optimizer step, as published; sequence: "
            "rollouts, each the mean over its tokens; constant: rollouts, each its sum divided by response_len."
        },
    )

    entropy_coef: float = field(
        default=0.0, metadata={"help": "Weight of the policy's entropy (nats), which its loss then rewards."}
    )
    advantage_clip: float | None = field(
        default=None,
        metadata={"help": "Advantages, whitened where they are, are cut off at ± this; default: never."},
    )
    overlong_responses: Literal["penalize", "mask"] = field(
        default="penalize",
        metadata={
            "help": "Responses that reach response_len without a stop token: penalize, as published; mask: no stop penalty, and "
            "nothing is learned from them."
        },
    )
    update_kl_limit: float | None = field(
        default=None,
        metadata={
            "help": "A PPO step takes no further optimizer step once one has measured a mean approxkl per token (nats) above "
            "this; default: all are taken."
        },
    )

    importance_correction: Literal["none", "truncated"] = field(
        default="none",
        metadata={
            "help": "Where another engine samples (--rollout_engine), whose probability q of a token differs from p of the model "
            "that trains: truncated: the policy's loss of the token times min(p / q, --importance_cap); none: as if they were alike."
        },
    )
    importance_cap: float = field(
        default=IMPORTANCE_CAP,
        metadata={"help": "Largest weight that --importance_correction truncated gives a token."},
    )

    def __post_init__(self):
        if self.cliprange_high is not None and self.cliprange_high < 0:
            raise ValueError(f"--cliprange_high {self.cliprange_high}: must be at least 0")
        if self.entropy_coef < 0:
            raise ValueError(f"--entropy_coef {self.entropy_coef}: must be at least 0")
        for name in ("advantage_clip", "update_kl_limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name} {value}: must be above 0")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(
                f"--dual_clip {self.dual_clip}: must be above 1, the ratio of a token that has not moved"
            )

        if not self.importance_cap >= 1:
            raise ValueError(
                f"--importance_cap {self.importance_cap}: must be at least 1, the weight of a token on which both engines agree"
            )
        if self.importance_correction == "none" and self.importance_cap != IMPORTANCE_CAP:
            raise ValueError(
                f"--importance_cap {self.importance_cap} with --importance_correction none, which weighs no token; leave it out, "
                "or use --importance_correction truncated"
            )

    def check_engine(self, rollout_engine: str) -> None:
        """Raise ValueError for a correction where the model that trains samples itself."""
        if self.importance_correction != "none" and rollout_engine == LOCAL:
            raise ValueError(
                f"--importance_correction {self.importance_correction} with --rollout_engine {LOCAL}: the model that trains samples "
                "itself, so that there is nothing to correct; leave it out"
            )

    def check_with(self, kl_estimator: KLEstimator, log_entropy: bool, numerics: Numerics) -> None:
        """Raise ValueError for what other settings of PPO leave no sense in."""
        if self.kl_placement == "loss" and kl_estimator is KLEstimator.K1_CLAMPED:
            raise ValueError(
                "--kl_placement loss with --kl_estimator k1_clamped, which has the gradient of no KL; choose k1, k2 or k3, or "
                "leave the KL in the reward"
            )
        if self.entropy_coef and not log_entropy:
            raise ValueError(
                f"--entropy_coef {self.entropy_coef} with --log_entropy False: the loss needs the entropy that is not computed; "
                "leave one of the two out"
            )
        if self.loss_normalization != "token" and numerics is Numerics.PUBLISHED:
            raise ValueError(
                f"--loss_normalization {self.loss_normalization} with --numerics published, where every response counts all "
                "columns up to response_len, so that all means are the same; use --numerics corrected, or leave it out"
            )
