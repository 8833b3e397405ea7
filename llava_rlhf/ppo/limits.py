"""Limits that a user can set for a PPO run, and how long processes wait for one another."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

WINDOW = 5  # PPO steps whose mean score is compared


@dataclass
class GuardArguments:
    """When a run stops itself. Numbers that are not finite always stop it."""

    _argument_group_name = "guards"

    max_kl: float = field(
        default=0.0,
        metadata={
            "help": "Limit of objective/kl_sum_seq: KL to the reference in nats per response, as kl_estimator measures it, "
            "mean over a step's rollouts; 0: none."
        },
    )
    max_reward_drop: float = field(
        default=0.0,
        metadata={
            "help": f"Limit of how far the mean score (objective/rewards) of {WINDOW} steps may lie below that of the best "
            f"{WINDOW} successive steps, in standard deviations between the responses of those; 0: none."
        },
    )
    guard_action: Literal["stop", "warn"] = field(
        default="stop",
        metadata={"help": "Past a limit: stop before the policy moves on, or warn and go on."},
    )
    ddp_timeout: int = field(
        default=1800,
        metadata={
            "help": "Seconds without progress after which all processes end, saying where each of them was; also how "
            "long a process waits for the others."
        },
    )

    def __post_init__(self):
        for name in ("max_kl", "max_reward_drop"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 0 (0: no limit)")
        if self.ddp_timeout < 1:
            raise ValueError(f"--ddp_timeout {self.ddp_timeout}: must be at least 1 second")


def reward_drop(means: Sequence[float], deviations: Sequence[float]) -> float:
    """How far the score has fallen, in standard deviations.

    (best − last) / σ: `last` is the mean score of the last `WINDOW` steps, `best` the highest mean of `WINDOW`
    successive steps, σ² the mean variance between the responses of a step in that best window. Deviations between
    responses, not between step means: a step's mean hardly varies in a large batch, and would give false alarms.

    Args:
        means: mean score of every step so far.
        deviations: standard deviation of the scores of each step's responses.

    Returns:
        The drop; 0 while there are fewer than `WINDOW` steps; infinite when it fell from scores that did not vary.
    """
    ends = range(WINDOW, len(means) + 1)
    if not ends:
        return 0.0
    windows = [sum(means[end - WINDOW : end]) / WINDOW for end in ends]
    best = max(range(len(windows)), key=windows.__getitem__)
    drop = windows[best] - windows[-1]
    variance = sum(value**2 for value in deviations[best : best + WINDOW]) / WINDOW
    if drop <= 0:
        return 0.0
    return drop / variance**0.5 if variance > 0 else float("inf")


def passed_limits(
    arguments: GuardArguments, metrics: Mapping[str, float], history: Sequence[Mapping[str, float]]
) -> dict[str, str]:
    """The limits that this step's metrics are past: flag → what happened.

    Args:
        arguments: the limits.
        metrics: of the step, before its update.
        history: metrics of the steps before it.
    """
    passed = {}
    kl = metrics["objective/kl_sum_seq"]
    if arguments.max_kl and kl > arguments.max_kl:
        passed["max_kl"] = f"KL is {kl:.3g} nats per response, above --max_kl {arguments.max_kl:g}"
    steps = [*history, metrics]
    drop = reward_drop(
        [line["objective/rewards"] for line in steps], [line["objective/rewards_std"] for line in steps]
    )
    if arguments.max_reward_drop and drop > arguments.max_reward_drop:
        passed["max_reward_drop"] = (
            f"the mean score of {WINDOW} steps has fallen {drop:.3g} standard deviations below the best, more than "
            f"--max_reward_drop {arguments.max_reward_drop:g}"
        )
    return passed
