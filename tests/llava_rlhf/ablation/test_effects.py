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
from llava_rlhf.ablation.results import Numbers
from llava_rlhf.ablation.tables import markdown

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


def test_a_missing_run_does_not_bend_what_two_ingredients_do_together(results, asked):
    """The k3 arms of one half have another effect: with one half of a four missing, the other may not count."""
    some = {0: dict(results[0])}
    for arm in make_arms("full", list(FACTORS)):
        if arm.word("kl_form") == "k3" and arm.word("facts") == "facts":
            some[0][arm] = {"error": value(arm, 0) + 1.0}
    gone = RECIPE.replace("kl_form", "k3")
    del some[0][gone]
    both = interaction(some, asked["factsfacts"], asked["correct_bonusbonus"], "error")
    assert both.mean == pytest.approx(-0.04)
    assert both.pairs == 2 * 11
    alone = {0: {arm: value for arm, value in some[0].items() if arm.word("correct_bonus") == "bonus"}}
    assert interaction(alone, asked["factsfacts"], asked["correct_bonusbonus"], "error") is None


def test_strength_has_no_unit():
    """Tokens and shares are in one list of the surest."""
    numbers = (0.1, 0.11, 0.12)
    shares, tokens = (Estimate({i: unit * x for i, x in enumerate(numbers)}, 3) for unit in (1, 1000))
    assert shares.strength == pytest.approx(0.11 / (0.01 / math.sqrt(3))) == tokens.strength
    assert Estimate({0: 1.0}, 1).strength == 0
    assert Estimate({0: 0.0, 1: 0.0}, 2).strength == 0 and Estimate({0: 1.0, 1: 1.0}, 2).strength == math.inf


def unfinished() -> Numbers:
    """Two seeds, of which one has a run less, and one that is prepared only; weak in tokens, strong in shares."""
    arms = make_arms("full", ["facts", "correct_bonus", "length_term"])
    noise = {0: 0.0, 1: 1e-3, 2: 2e-3}

    def measures(arm, seed):
        together = arm.word("facts") == "facts" and arm.word("correct_bonus") == "bonus"
        long = arm.word("facts") == "facts" and arm.word("length_term") == "length"
        return {"share": together * (0.1 + noise[seed]), "tokens": long * (50.0 + 2000 * noise[seed])}

    results = {seed: {arm: measures(arm, seed) for arm in arms} for seed in (0, 1, 2)} | {3: {}}
    del results[2][arms[-1]]
    return Numbers(results, {}, {"share": "a share", "tokens": "a length"})


def test_the_table_says_what_is_missing_and_lists_the_surest_first():
    table = markdown(unfinished(), ["tokens", "share"])
    assert table.startswith("23 PPO runs, 3 seeds.")
    assert "**Not complete**: 1 runs that another seed has are missing" in table
    together = table.split("## Together")[1].split("## Every arm")[0]
    assert together.index("| share |") < together.index("| tokens |")


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
