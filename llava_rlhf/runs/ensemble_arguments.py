"""Settings of several reward models that score together."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import math
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class EnsembleArguments:
    """Who scores besides the reward model, and how scores are put together."""

    _argument_group_name = "reward ensemble"

    more_reward_models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More reward models, of the same base and trained alike; the score is then the mean of all minus "
            "--ensemble_beta times their standard deviation."
        },
    )
    ensemble_beta: float | None = field(
        default=None,
        metadata={"help": "How much disagreement between the reward models costs; default: 0, the mean."},
    )

    def __post_init__(self):
        if self.ensemble_beta is not None and not self.more_reward_models:
            raise ValueError(
                f"--ensemble_beta {self.ensemble_beta} without --more_reward_models: one reward model disagrees with nobody; "
                "name others, or leave it out"
            )
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"--ensemble_beta {self.ensemble_beta}: must be at least 0, and finite")

    @property
    def beta(self) -> float:
        """Weight of the spread."""
        return self.ensemble_beta or 0.0

    def check_with(self, reward_model: str) -> None:
        """Raise ValueError where a reward model is named twice, also beside `reward_model`: it would agree with itself."""
        seen: dict[Path, str] = {}
        for folder in (reward_model, *self.more_reward_models):
            place = Path(folder).resolve()
            if place in seen:
                raise ValueError(
                    f"--more_reward_models {' '.join(self.more_reward_models)}: {folder} is {seen[place]} once more, which would "
                    "agree with itself; name each reward model once"
                )
            seen[place] = folder
