"""What an ingredient does: differences between arms that are alike in everything else, with their uncertainty over seeds.

A seed draws anew what `ablation_seed.sh` makes (in the tiny world everything, the world included) and what PPO samples:
it is the unit of the statistics. Arms of one seed share all but PPO, so that differences are taken within seeds; n of them
give Student's t interval with n − 1 degrees of freedom.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llava_rlhf.ablation.design import CHOICES, RECIPE, Arm

CONFIDENCE = 0.95
# seed → arm → measure → value; None where nothing says anything of a measure.
Results = Mapping[int, Mapping[Arm, Mapping[str, float | None]]]


@dataclass(frozen=True)
class Estimate:
    """A number over seeds.

    Attributes:
        per_seed: seed → number.
        pairs: pairs of runs behind all of them (runs, where no difference was taken).
    """

    per_seed: Mapping[int, float]
    pairs: int

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.per_seed.values())

    @property
    def standard_error(self) -> float | None:
        """Of the mean, over seeds; None for one seed."""
        from scipy import stats  # slow to load

        numbers = list(self.per_seed.values())
        return float(stats.sem(numbers)) if len(numbers) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, Student's t over seeds; None for one seed."""
        error = self.standard_error
        if error is None:
            return None
        from scipy import stats  # slow to load

        reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(self.per_seed) - 1))
        return self.mean - reach, self.mean + reach

    @property
    def strength(self) -> float:
        """Student's t: how many standard errors the mean is away from 0; 0 for one seed."""
        error = self.standard_error
        if error is None or not self.mean:
            return 0.0
        return abs(self.mean) / error if error else math.inf

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class Contrast:
    """A question: a factor's setting `high` against `low`."""

    title: str
    factor: str
    high: str
    low: str


def contrasts(results: Results) -> list[Contrast]:
    """All questions that the arms say something of."""
    seen = {arm for arms in results.values() for arm in arms}
    return [
        Contrast(title, name, high, low)
        for name, factor in CHOICES.items()
        for title, (high, low) in factor.contrasts.items()
        if {high, low} <= {arm.word(name) for arm in seen}
    ]


def arm_mean(results: Results, arm: Arm, measure: str) -> Estimate | None:
    """A measure of one arm; None where no seed has it."""
    found = {
        seed: value
        for seed, arms in results.items()
        if arm in arms and (value := arms[arm].get(measure)) is not None
    }
    return Estimate(found, len(found)) if found else None


def main_effect(
    results: Results, contrast: Contrast, measure: str, among: Callable[[Arm], bool] = lambda arm: True
) -> Estimate | None:
    """Mean difference high − low over all pairs of arms that are alike but for the factor.

    Args:
        among: which arms count (it is asked of the one with `low`).
    """
    per_seed, pairs = {}, 0
    for seed, arms in results.items():
        found = [difference for _, difference in _differences(arms, contrast, measure, among)]
        if found:
            per_seed[seed] = statistics.fmean(found)
            pairs += len(found)
    return Estimate(per_seed, pairs) if per_seed else None


def effect_in_recipe(results: Results, contrast: Contrast, measure: str) -> Estimate | None:
    """The difference where everything else is as in the recipe."""
    alike = RECIPE.replace(contrast.factor, contrast.low)
    return main_effect(results, contrast, measure, lambda arm: arm == alike)


def interaction(results: Results, one: Contrast, other: Contrast, measure: str) -> Estimate | None:
    """How much larger the effect of `one` is with `other`'s high setting than with its low one.

    Mean over all fours of arms that are alike but for the two factors: where a run is missing, its four is left out.
    """
    per_seed, pairs = {}, 0
    for seed, arms in results.items():
        low, high = (
            {
                arm.replace(other.factor, other.low): difference
                for arm, difference in _differences(
                    arms, one, measure, lambda arm, word=word: arm.word(other.factor) == word
                )
            }
            for word in (other.low, other.high)
        )
        found = [high[arm] - low[arm] for arm in high.keys() & low.keys()]
        if found:
            per_seed[seed] = statistics.fmean(found)
            pairs += 2 * len(found)
    return Estimate(per_seed, pairs) if per_seed else None


def interactions(
    results: Results, measures: Sequence[str]
) -> Iterator[tuple[Contrast, Contrast, str, Estimate]]:
    """Every pair of questions on two factors, for every measure."""
    asked = contrasts(results)
    for place, one in enumerate(asked):
        for other in asked[place + 1 :]:
            if one.factor != other.factor:
                for measure in measures:
                    found = interaction(results, one, other, measure)
                    if found is not None:
                        yield one, other, measure, found


def _differences(
    arms: Mapping[Arm, Mapping[str, float | None]],
    contrast: Contrast,
    measure: str,
    among: Callable[[Arm], bool],
) -> Iterator[tuple[Arm, float]]:
    """The arm with `low` of every pair, and high − low."""
    for arm, values in arms.items():
        if arm.word(contrast.factor) == contrast.low and among(arm):
            low, high = (
                values.get(measure),
                arms.get(arm.replace(contrast.factor, contrast.high), {}).get(measure),
            )
            if low is not None and high is not None:
                yield arm, high - low
