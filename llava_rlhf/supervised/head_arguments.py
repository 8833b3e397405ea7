"""Settings of the reward model's head."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class RewardHeadArguments:
    """What makes a score of the last hidden state."""

    _argument_group_name = "reward head"

    reward_head: Literal["linear", "mlp"] = field(
        default="linear",
        metadata={
            "help": "linear: w · h + b, as published; mlp: a square layer and SiLU before it, with weights of their own."
        },
    )
