"""Settings of advantages and of the critic."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from data_utils.facts import RewardPrompt
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.recipes import MODERN, recipe_defaults

WITH_CRITIC = "gae"
CRITICS_ALONE = (
    "normalize_returns value_sees_facts value_warmup_steps value_learning_rate"  # of `EstimatorArguments`
    " lam vf_coef cliprange_value init_value_with_reward"  # of `PPOArguments`
)
NO = ("false", "f", "no", "n", "0")  # what `HfArgumentParser` reads as False


@dataclass
class EstimatorArguments:
    """What answers are measured against, and how a critic learns it."""

    _argument_group_name = "advantages and critic"

    recipe: Literal["published", "modern"] = field(
        default=MODERN,
        metadata={
            "help": "Defaults of other flags: modern: as docs/optimisers.md found best; published: as in 2023. A flag that is "
            "given wins over them."
        },
    )
    advantage_estimator: Literal["gae", "rloo", "grpo", "reinforce"] = field(
        default="gae",
        metadata={
            "help": "gae: a critic, as published; rloo: the other answers to the prompt; grpo: all answers to the prompt, in "
            "units of their spread; reinforce: the mean of the batch. Without a critic none is loaded."
        },
    )
    samples_per_prompt: int = field(
        default=1, metadata={"help": "Answers that one prompt gets in a PPO step: a group."}
    )
    divide_by_group_spread: bool = field(
        default=True,
        metadata={
            "help": "grpo in units of the group's spread; False: only less the group's mean (Dr. GRPO)."
        },
    )
    whiten_advantages: bool | None = field(
        default=None,
        metadata={
            "help": "Advantages less their mean and in units of their spread, over the batch; default: for gae and reinforce."
        },
    )
    normalize_returns: bool = field(
        default=False,
        metadata={
            "help": "The critic learns returns in units of their running mean and spread, and --cliprange_value is in these "
            "units; False: in units of the rewards, as published."
        },
    )
    value_sees_facts: bool = field(
        default=False,
        metadata={
            "help": "The critic reads the reward prompt with its facts before the response, as the reward model reads it behind; "
            "False: it sees what the policy sees, as published."
        },
    )
    value_warmup_steps: int = field(
        default=0, metadata={"help": "PPO steps at the start that train the critic alone."}
    )
    value_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of the critic; default: --learning_rate, as published."},
    )

    def __post_init__(self):
        if self.value_warmup_steps < 0:
            raise ValueError(f"--value_warmup_steps {self.value_warmup_steps}: must be at least 0")
        if self.value_learning_rate is not None and not self.value_learning_rate > 0:
            raise ValueError(f"--value_learning_rate {self.value_learning_rate}: must be above 0")
        if self.samples_per_prompt < 1:
            raise ValueError(f"--samples_per_prompt {self.samples_per_prompt}: must be at least 1")
        if self.compares_in_groups and self.samples_per_prompt == 1:
            raise ValueError(
                f"--advantage_estimator {self.advantage_estimator} compares answers to one prompt, and --samples_per_prompt 1 "
                "leaves nothing to compare; sample 4 or 8, or use --advantage_estimator reinforce"
            )

    @classmethod
    def defaults_for(cls, said: Mapping[str, str]) -> Mapping[str, Any]:
        """Defaults that follow from what a command line says (values as strings, by flag), for `StrictParser`."""
        critic = said.get("advantage_estimator", WITH_CRITIC) == WITH_CRITIC
        facts = said.get("facts", "True").lower() not in NO
        facts = facts and not {"no_facts", "no-facts"} & said.keys()  # what argparse takes for --facts False
        facts = facts and _has_place_for_facts(said.get("reward_prompt_file", ""))
        whitened = "whiten_rewards" in said and said["whiten_rewards"].lower() not in NO
        return recipe_defaults(said.get("recipe", cls.recipe), critic, facts, whitened)

    def said(self) -> str:
        """The recipe and what it stands for here, for a log; empty for the published one."""
        names = recipe_defaults(self.recipe, self.has_critic)
        flags = " ".join(f"--{name} {getattr(self, name)}" for name in names)
        return f"--recipe {self.recipe}: {flags}" if names else ""

    @property
    def has_critic(self) -> bool:
        """Whether a value model is loaded and trained."""
        return self.advantage_estimator == WITH_CRITIC

    @property
    def compares_in_groups(self) -> bool:
        """Whether an answer is measured against others to the same prompt, with one advantage for all of its tokens."""
        return self.advantage_estimator in ("rloo", "grpo")

    @property
    def whitens(self) -> bool:
        """Whether advantages are whitened over the batch."""
        if self.whiten_advantages is None:
            return not self.compares_in_groups
        return self.whiten_advantages

    @property
    def divides_by_group_spread(self) -> bool:
        """Whether an advantage is in units of its group's spread."""
        return self.advantage_estimator == "grpo" and self.divide_by_group_spread

    def check_with(self, ppo: PPOArguments, rewards: RewardArguments) -> None:
        """Raise ValueError for what other settings of PPO leave no sense in."""
        self._check_critic(ppo)
        self._check_scale(rewards)
        if self.compares_in_groups and rewards.reward_placement == "sentence":
            raise ValueError(
                f"--reward_placement sentence with --advantage_estimator {self.advantage_estimator}, which gives all tokens of an "
                "answer one advantage: where rewards stand is lost; leave it out, or use gae or reinforce"
            )
        if self.compares_in_groups and ppo.gamma != 1:
            raise ValueError(
                f"--gamma {ppo.gamma} with --advantage_estimator {self.advantage_estimator}, which compares what whole answers "
                "earned: nothing would be discounted; leave it out, or use gae or reinforce"
            )
        if self.advantage_estimator != "grpo" and not self.divide_by_group_spread:
            raise ValueError(
                f"--divide_by_group_spread False with --advantage_estimator {self.advantage_estimator}, which divides by no "
                "group's spread; leave the one out, or use --advantage_estimator grpo"
            )
        if ppo.rollout_batch_size % self.samples_per_prompt:
            below = max(1, ppo.rollout_batch_size // self.samples_per_prompt) * self.samples_per_prompt
            raise ValueError(
                f"--samples_per_prompt {self.samples_per_prompt} does not divide --rollout_batch_size "
                f"{ppo.rollout_batch_size}, which counts answers: groups would be cut; --rollout_batch_size {below} works, or "
                "other --samples_per_prompt"
            )

    def _check_critic(self, ppo: PPOArguments) -> None:
        if not self.has_critic:
            set_here = [*_changed(self, CRITICS_ALONE), *_changed(ppo, CRITICS_ALONE)]
            if set_here:
                raise ValueError(
                    f"--advantage_estimator {self.advantage_estimator} has no critic, which {', '.join(set_here)} "
                    f"{'speak' if len(set_here) > 1 else 'speaks'} of; leave {'them' if len(set_here) > 1 else 'it'} out, or "
                    "use --advantage_estimator gae"
                )
        if self.value_warmup_steps and ppo.deepspeed is not None:
            raise ValueError(
                f"--value_warmup_steps {self.value_warmup_steps} with --deepspeed: its engine steps all weights at once, so that "
                "the policy's moments would age where it rests; leave one of the two out"
            )
        if self.value_learning_rate is not None and ppo.learning_rate == 0:
            raise ValueError(
                f"--value_learning_rate {self.value_learning_rate} follows the schedule of --learning_rate, which is 0; raise "
                "that, or use --value_warmup_steps to train the critic alone"
            )

    def check_steps(self, steps: int) -> None:
        """Raise ValueError where a run of so many PPO steps would train the critic alone."""
        if 0 < steps <= self.value_warmup_steps:
            raise ValueError(
                f"--value_warmup_steps {self.value_warmup_steps} of {steps} PPO steps: the policy would never move; take fewer, "
                "or raise --max_steps or --total_epochs"
            )

    def check_prompt(self, uses_facts: bool) -> None:
        """Raise ValueError for a critic that shall see facts which the reward prompt does not hold."""
        if self.value_sees_facts and not uses_facts:
            raise ValueError(
                "--value_sees_facts True, but the reward prompt holds no facts (--facts False, or a --reward_prompt_file without "
                "{factual_prompt}); use a prompt that holds them, or --value_sees_facts False"
            )

    def _check_scale(self, rewards: RewardArguments) -> None:
        if self.divides_by_group_spread and self.whiten_advantages:
            raise ValueError(
                "--whiten_advantages True with --advantage_estimator grpo, whose advantages are already in units of a spread: "
                "whitened twice; leave it out, or set --divide_by_group_spread False"
            )
        if rewards.whiten_rewards and (self.divides_by_group_spread or self.normalize_returns):
            other = "--normalize_returns True" if self.normalize_returns else "--advantage_estimator grpo"
            raise ValueError(
                f"--whiten_rewards True with {other}, which brings rewards to a scale of its own: whitened twice; leave one of "
                "the two out"
            )


def _has_place_for_facts(prompt_file: str) -> bool:
    """Whether a reward prompt asks for facts; one that can't be read here (an id, a path that is missing) is taken to."""
    try:
        return RewardPrompt.from_file(prompt_file).uses_facts
    except ValueError:
        return True


def _changed(arguments: Any, names: str) -> list[str]:
    """`--flag value` of the fields that are not at their default."""
    return [
        f"--{one.name} {getattr(arguments, one.name)}"
        for one in fields(arguments)
        if one.name in names.split()
        and one.default is not MISSING
        and getattr(arguments, one.name) != one.default
    ]
