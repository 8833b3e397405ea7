"""What is taken apart: the ingredients of the method, and the arms of a study that differ in them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Level:
    """One setting of an ingredient.

    Attributes:
        word: what stands for it in the name of an arm.
        flags: of `train_rl_model`, behind those of the script.
        variables: of the scripts.
    """

    word: str
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Factor:
    """An ingredient and its settings, that of the recipe first: what the scripts do by default.

    `contrasts` are what is asked of it: title → (words of a setting, of what it is compared with).
    """

    levels: tuple[Level, ...]
    contrasts: Mapping[str, tuple[str, str]]

    @property
    def words(self) -> list[str]:
        """The words of its settings, the recipe's first."""
        return [level.word for level in self.levels]


def _switch(title: str, word: str, off: tuple[str, ...]) -> Factor:
    return Factor((Level(word), Level(f"no_{word}", off)), {title: (word, f"no_{word}")})


FACTORS: Mapping[str, Factor] = {
    "facts": Factor(
        (Level("facts", variables={"FACTS": "True"}), Level("no_facts", variables={"FACTS": "False"})),
        {"facts in the reward prompt": ("facts", "no_facts")},
    ),
    "correct_bonus": _switch("correct-answer bonus", "bonus", ("--correct_bonus_score", "0")),
    "length_term": _switch("length term", "length", ("--length_bonus_score", "0")),
    "stop_penalty": _switch("missing-stop penalty", "stop", ("--penalize_no_stop_token", "False")),
    "kl_form": Factor(
        tuple(Level(word, ("--kl_estimator", word)) for word in ("k1_clamped", "k1", "k3")),
        {
            "KL form k1 instead of k1_clamped": ("k1", "k1_clamped"),
            "KL form k3 instead of k1_clamped": ("k3", "k1_clamped"),
        },
    ),
}


def _offered(title: str, word: str, *flags: str) -> Factor:
    return Factor((Level("published"), Level(word, flags)), {title: (word, "published")})


def _mentions(word: str, *flags: str) -> Level:
    """Things that answers name are paid; the variable has the script add what its data are like."""
    return Level(word, ("--fact_reward", "mentions", *flags), {"FACT_REWARD": "mentions"})


# How it is optimised: left out, unless a study names it. The word `published` is a setting that was published.
OFFERED: Mapping[str, Factor] = {
    "advantage_estimator": Factor(
        (
            Level("modern"),
            Level("published_recipe", variables={"RECIPE": "published"}),
            Level("rloo", ("--advantage_estimator", "rloo", "--samples_per_prompt", "4")),
            Level("grpo", ("--advantage_estimator", "grpo", "--samples_per_prompt", "4")),
            Level("reinforce", ("--advantage_estimator", "reinforce")),
        ),
        {
            "modern recipe instead of the published one": ("modern", "published_recipe"),
            "leave-one-out instead of a critic": ("rloo", "modern"),
            "group-relative instead of a critic": ("grpo", "modern"),
            "batch mean instead of a critic": ("reinforce", "modern"),
        },
    ),
    "reward_placement": _offered("rewards by sentence", "by_sentence", "--reward_placement", "sentence"),
    "kl_placement": _offered(
        "KL in the loss (k3)", "kl_loss", "--kl_placement", "loss", "--kl_estimator", "k3"
    ),
    "cliprange_high": _offered("clip above 1 at .28", "clip_higher", "--cliprange_high", "0.28"),
    "dual_clip": _offered("dual clip at 3", "dual_clip", "--dual_clip", "3"),
    "loss_normalization": Factor(
        (
            Level("published"),
            Level("by_sequence", ("--loss_normalization", "sequence")),
            Level("by_constant", ("--loss_normalization", "constant")),
        ),
        {
            "loss: mean over rollouts": ("by_sequence", "published"),
            "loss: sum over rollouts by a constant": ("by_constant", "published"),
        },
    ),
    "entropy_coef": _offered("entropy bonus of .01", "entropy", "--entropy_coef", "0.01"),
    "advantage_clip": _offered("advantages cut off at 3", "advantage_clip", "--advantage_clip", "3"),
    "overlong_responses": _offered("overlong responses masked", "masked", "--overlong_responses", "mask"),
    "value_sees_facts": Factor(
        (
            Level("critic_with_facts"),
            Level("critic_without_facts", ("--value_sees_facts", "False")),
        ),
        {"critic that sees facts": ("critic_with_facts", "critic_without_facts")},
    ),
    "importance_correction": _offered(
        "weights against the engine that samples",
        "importance",
        *("--importance_correction", "truncated", "--importance_cap", "2"),
    ),
    "fact_reward": Factor(
        (
            Level("published"),
            _mentions("mentions", "--fact_coverage_score", "0"),
            _mentions("covered"),
            _mentions("mentions_alone", "--reward_model_coef", "0"),
            Level("claims", ("--fact_reward", "claims"), {"FACT_REWARD": "claims"}),
        ),
        {
            "mentions paid": ("mentions", "published"),
            "mentions and coverage paid": ("covered", "published"),
            "coverage beside mentions": ("covered", "mentions"),
            "mentions and coverage without a reward model": ("mentions_alone", "covered"),
            "claims judged and paid": ("claims", "published"),
            "claims instead of mentions": ("claims", "covered"),
        },
    ),
    "unmentioned": Factor(
        (
            Level("published"),
            _mentions("unmentioned_neutral", "--unmentioned", "neutral"),
            _mentions("unmentioned_penalised", "--unmentioned", "penalise"),
            _mentions("picture_asked", "--unmentioned", "ask_picture"),
        ),
        {
            "things that no fact names penalised": ("unmentioned_penalised", "unmentioned_neutral"),
            "things that no fact names asked of the picture": ("picture_asked", "unmentioned_neutral"),
        },
    ),
    "update_kl_limit": _offered("updates end at a KL of .02", "kl_limit", "--update_kl_limit", "0.02"),
}
CHOICES: Mapping[str, Factor] = {**FACTORS, **OFFERED}
# Pairs that no arm can have both of, and why: a full design would hold runs that are refused, or alike under two names.
NOT_TOGETHER: Mapping[tuple[str, str], str] = {
    ("kl_form", "kl_placement"): "the KL in the loss has a form of its own",
    ("facts", "value_sees_facts"): "without facts there are none for the critic to see",
    ("advantage_estimator", "value_sees_facts"): "three of the estimators have no critic",
    ("fact_reward", "unmentioned"): "both pay for mentions",
    ("advantage_estimator", "reward_placement"): "in groups all tokens of an answer share one advantage",
}
# Whose first setting is what `RECIPE=modern` of the scripts makes of the critic.
OF_THE_CRITIC = ("advantage_estimator", "value_sees_facts")


@dataclass(frozen=True)
class Arm:
    """One combination.

    Attributes:
        words: the setting of each of `FACTORS`, in their order.
        offered: (factor, word) of those of `OFFERED` that are not as in the recipe, in their order.
    """

    words: tuple[str, ...]
    offered: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Usable as the name of a folder."""
        return "-".join([*self.words, *(word for _, word in self.offered)])

    def levels(self) -> list[Level]:
        """The settings themselves."""
        chosen = [*zip(FACTORS, self.words, strict=True), *self.offered]
        return [next(level for level in CHOICES[name].levels if level.word == word) for name, word in chosen]

    def replace(self, factor: str, word: str) -> Arm:
        """The same arm but for one factor."""
        return make_arm(dict(zip(FACTORS, self.words, strict=True)) | dict(self.offered) | {factor: word})

    def word(self, factor: str) -> str:
        """The setting of one factor."""
        if factor in FACTORS:
            return self.words[list(FACTORS).index(factor)]
        return dict(self.offered).get(factor, OFFERED[factor].words[0])


def make_arm(words: Mapping[str, str]) -> Arm:
    """The arm with these settings by factor; what is not named is as in the recipe."""
    chosen = {name: words.get(name, factor.words[0]) for name, factor in CHOICES.items()}
    offered = tuple((name, chosen[name]) for name in OFFERED if chosen[name] != OFFERED[name].words[0])
    return Arm(tuple(chosen[name] for name in FACTORS), offered)


RECIPE = make_arm({})


def make_arms(design: str, factors: Sequence[str]) -> list[Arm]:
    """The arms of a study, the recipe first; factors that are not named stay as in the recipe.

    Args:
        design: `full`, every combination of the factors' settings; `one_off`, the recipe and what differs from it in one.
        factors: names from `FACTORS` and `OFFERED`.
    """
    if design == "one_off":
        changed = [RECIPE.replace(name, word) for name in factors for word in CHOICES[name].words[1:]]
        return [RECIPE, *changed]
    named = {name: factor.words for name, factor in CHOICES.items() if name in factors}
    return [make_arm(dict(zip(named, words, strict=True))) for words in itertools.product(*named.values())]


def check_recipe(factors: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raise ValueError where the scripts' variables make arms something else than their names say."""
    named = [name for name in OF_THE_CRITIC if name in factors]
    if named and variables.get("RECIPE", "modern") != "modern":
        raise ValueError(
            f"RECIPE={variables['RECIPE']} with --factors {' '.join(named)}: what is varied starts from the critic of the modern "
            "recipe; unset RECIPE (advantage_estimator has the published one as an arm), or leave them out"
        )
