"""Effects of ingredients, from numbers whose effects are known by hand."""

from __future__ import annotations

import math

import pytest

from llava_rlhf.ablation.design import FACTORS, RECIPE, make_arms
from llava_rlhf.ablation.effects import (
    Estimate,
    arm_mean,
    contrasts,
    effect_in_recipe,
    interaction,
    interactions,
    main_effect,
)

T_2 = 4.302652729696142  # 97.5 % of Student's t with 2 degrees of freedom, from a printed table


def value(arm, seed: int) -> float:
    facts, bonus, length, _, k3 = (
        word == level
        for word, level in zip(arm.words, ("facts", "bonus", "length", "stop", "k3"), strict=True)
    )
    return (
        0.5
        - 0.2 * facts
        - 0.1 * bonus
        - 0.04 * facts * bonus
        + 0.01 * seed * facts
        + 0.03 * length
        + 0.007 * k3
    )


@pytest.fixture(scope="module")
def results():
    return {
        seed: {arm: {"error": value(arm, seed), "none": None} for arm in make_arms("full", list(FACTORS))}
        for seed in (0, 1, 2)
    }


@pytest.fixture(scope="module")
def asked(results):
    return {contrast.factor + contrast.high: contrast for contrast in contrasts(results)}


def test_an_effect_over_the_grid(results, asked):
    facts = main_effect(results, asked["factsfacts"], "error")
    assert facts.per_seed == pytest.approx({0: -0.22, 1: -0.21, 2: -0.20})
    assert facts.mean == pytest.approx(-0.21) and facts.pairs == 3 * 24
    reach = T_2 * 0.01 / math.sqrt(3)
    assert facts.interval == pytest.approx((-0.21 - reach, -0.21 + reach), rel=1e-9)
    assert facts.sure
    assert main_effect(results, asked["correct_bonusbonus"], "error").mean == pytest.approx(-0.12)
    assert main_effect(results, asked["length_termlength"], "error").mean == pytest.approx(0.03)
    stop = main_effect(results, asked["stop_penaltystop"], "error")
    assert stop.mean == pytest.approx(0, abs=1e-12) and stop.pairs == 3 * 24
    assert main_effect(results, asked["kl_formk3"], "error").mean == pytest.approx(0.007)
    assert main_effect(results, asked["kl_formk3"], "error").pairs == 3 * 16
    assert main_effect(results, asked["kl_formk1"], "error").mean == pytest.approx(0, abs=1e-12)


def test_an_effect_in_the_recipe(results, asked):
    facts = effect_in_recipe(results, asked["factsfacts"], "error")
    assert facts.per_seed == pytest.approx({0: -0.24, 1: -0.23, 2: -0.22}) and facts.pairs == 3
    assert effect_in_recipe(results, asked["correct_bonusbonus"], "error").mean == pytest.approx(-0.14)


def test_an_interaction(results, asked):
    both = interaction(results, asked["factsfacts"], asked["correct_bonusbonus"], "error")
    assert both.per_seed == pytest.approx({0: -0.04, 1: -0.04, 2: -0.04})
    other = interaction(results, asked["correct_bonusbonus"], asked["factsfacts"], "error")
    assert other.mean == pytest.approx(both.mean)  # it belongs to neither
    found = list(interactions(results, ["error", "none"]))
    # 10 pairs of five factors, those with kl_form twice; nothing is known of the other measure.
    assert len(found) == 6 + 4 * 2 and {measure for *_, measure, _ in found} == {"error"}
    strong = [pair for *pair, measure, estimate in found if abs(estimate.mean) > 1e-9]
    assert [[one.factor for one in pair] for pair in strong] == [["facts", "correct_bonus"]]


def test_missing_runs_leave_out_their_pairs_only(results, asked):
    some = {seed: dict(arms) for seed, arms in results.items()}
    del some[0][RECIPE]
    some[1] = {RECIPE: results[1][RECIPE]}
    facts = main_effect(some, asked["factsfacts"], "error")
    assert set(facts.per_seed) == {0, 2} and facts.pairs == 23 + 24
    # The pair that is missing has the bonus, so that the others have less of it.
    assert facts.per_seed[0] == pytest.approx((12 * -0.20 + 11 * -0.24) / 23)
    assert main_effect({1: some[1]}, asked["factsfacts"], "error") is None
    assert contrasts({1: some[1]}) == []


def test_nothing_is_sure_from_one_seed(results, asked):
    facts = main_effect({0: results[0]}, asked["factsfacts"], "error")
    assert facts.mean == pytest.approx(-0.22) and facts.interval is None and not facts.sure


def test_an_arm(results):
    recipe = arm_mean(results, RECIPE, "error")
    assert recipe.mean == pytest.approx(0.5 - 0.34 + 0.01 + 0.03)
    assert recipe.standard_error == pytest.approx(0.01 / math.sqrt(3))
    assert arm_mean(results, RECIPE, "none") is None


@pytest.mark.parametrize(
    ("numbers", "sure"),
    [((0.1, 0.11, 0.12), True), ((-0.1, 0.11, 0.12), False), ((-0.3, -0.31, -0.32), True)],
)
def test_sure_is_an_interval_without_zero(numbers, sure):
    assert Estimate(dict(enumerate(numbers)), 3).sure is sure
