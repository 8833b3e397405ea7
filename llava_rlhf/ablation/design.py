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
    """An ingredient and its settings, that of the published recipe first.

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


@dataclass(frozen=True)
class Arm:
    """One combination: the word of each factor's setting, in the order of `FACTORS`."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Usable as the name of a folder."""
        return "-".join(self.words)

    def levels(self) -> list[Level]:
        """The settings themselves."""
        return [
            next(level for level in factor.levels if level.word == word)
            for factor, word in zip(FACTORS.values(), self.words, strict=True)
        ]

    def replace(self, factor: str, word: str) -> Arm:
        """The same arm but for one factor."""
        place = list(FACTORS).index(factor)
        return Arm((*self.words[:place], word, *self.words[place + 1 :]))

    def word(self, factor: str) -> str:
        """The setting of one factor."""
        return self.words[list(FACTORS).index(factor)]


RECIPE = Arm(tuple(factor.levels[0].word for factor in FACTORS.values()))


def make_arms(design: str, factors: Sequence[str]) -> list[Arm]:
    """The arms of a study, the recipe first; factors that are not named stay as in the recipe.

    Args:
        design: `full`, every combination of the factors' settings; `one_off`, the recipe and what differs from it in one.
        factors: names from `FACTORS`.
    """
    if design == "one_off":
        changed = [RECIPE.replace(name, word) for name in factors for word in FACTORS[name].words[1:]]
        return [RECIPE, *changed]
    choices = [factor.words if name in factors else factor.words[:1] for name, factor in FACTORS.items()]
    return [Arm(words) for words in itertools.product(*choices)]
