"""Settings of what a policy is trained on: dialogues, or preferences without a reward model."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import math
from dataclasses import dataclass, field, fields
from typing import Literal

DPO = "dpo"


@dataclass
class ObjectiveArguments:
    """The loss of the policy, and what it is compared with."""

    _argument_group_name = "objective"

    objective: Literal["sft", "dpo"] = field(
        default="sft",
        metadata={
            "help": "sft: cross-entropy of the answers of dialogues; dpo: direct preference optimisation, on the preference rows "
            "that train_reward_model reads."
        },
    )
    policy_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "With dpo: adapter that the policy starts from and that is its reference (None: the base; then the adapter "
            "is new)."
        },
    )
    dpo_beta: float = field(
        default=0.1, metadata={"help": "Weight of the KL to the reference, per nat; above 0."}
    )
    dpo_label_smoothing: float = field(
        default=0.0,
        metadata={"help": "Share of the preferences that is taken to be wrong (cDPO); 0 to below 0.5."},
    )

    def __post_init__(self):
        said = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        if said and not self.compares:
            raise ValueError(
                f"--{said[0]} {getattr(self, said[0])}: only --objective dpo reads it; add that, or leave it out"
            )
        if not 0.0 < self.dpo_beta < math.inf:
            raise ValueError(f"--dpo_beta {self.dpo_beta}: must be above 0; 0.1 is usual")
        if not 0.0 <= self.dpo_label_smoothing < 0.5:
            raise ValueError(
                f"--dpo_label_smoothing {self.dpo_label_smoothing}: must be at least 0 and below 0.5, where labels say nothing"
            )

    @property
    def compares(self) -> bool:
        """Whether the policy learns from pairs of answers."""
        return self.objective == DPO
