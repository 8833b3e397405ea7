"""The arms of a study."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest

from llava_rlhf.ablation.arguments import AblationArguments
from llava_rlhf.ablation.design import (
    CHOICES,
    FACTORS,
    NOT_TOGETHER,
    OFFERED,
    RECIPE,
    Level,
    check_recipe,
    make_arms,
)
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.train_rl_model import ARGUMENTS as PPO_ARGUMENTS

TINY = ["--scripts", "scripts/tiny"]


def test_the_full_grid_has_every_combination_once():
    arms = make_arms("full", list(FACTORS))
    assert len(arms) == 2**4 * 3 and arms[0] == RECIPE
    expected = itertools.product(
        ("facts", "no_facts"),
        ("bonus", "no_bonus"),
        ("length", "no_length"),
        ("stop", "no_stop"),
        ("k1_clamped", "k1", "k3"),
    )
    assert {arm.name for arm in arms} == {"-".join(words) for words in expected}


def test_one_off_changes_one_thing_at_a_time():
    arms = make_arms("one_off", list(FACTORS))
    assert [arm.name for arm in arms] == [
        "facts-bonus-length-stop-k1_clamped",
        "no_facts-bonus-length-stop-k1_clamped",
        "facts-no_bonus-length-stop-k1_clamped",
        "facts-bonus-no_length-stop-k1_clamped",
        "facts-bonus-length-no_stop-k1_clamped",
        "facts-bonus-length-stop-k1",
        "facts-bonus-length-stop-k3",
    ]


def test_factors_that_are_not_named_stay_as_in_the_recipe():
    arms = make_arms("full", ["kl_form", "facts"])
    assert [arm.words for arm in arms] == [
        (facts, "bonus", "length", "stop", form)
        for facts in ("facts", "no_facts")
        for form in ("k1_clamped", "k1", "k3")
    ]


def test_the_flags_of_every_setting_mean_what_their_word_says():
    """Read by PPO's own settings, behind the values that a script gives."""
    script = "--correct_bonus_score 2 --length_bonus_score -10 --penalize_no_stop_token True".split()
    for arm in make_arms("full", list(FACTORS)):
        flags = [flag for level in arm.levels() for flag in level.flags]
        reward = next(kind for kind in PPO_ARGUMENTS if hasattr(kind, "kl_estimator"))
        (read,) = StrictParser((reward,)).parse([*script, *flags])
        assert (read.correct_bonus_score == 0) == ("no_bonus" in arm.words)
        assert (read.length_bonus_score == 0) == ("no_length" in arm.words)
        assert read.penalize_no_stop_token == ("stop" in arm.words)
        assert read.kl_estimator == arm.words[-1]
        facts = [level.variables["FACTS"] for level in arm.levels() if level.variables]
        assert facts == ["False" if "no_facts" in arm.words else "True"]


def test_what_is_offered_besides_is_added_to_the_name_only_where_it_differs():
    arms = make_arms("one_off", ["dual_clip", "loss_normalization"])
    plain = "facts-bonus-length-stop-k1_clamped"
    expected = [plain, *(f"{plain}-{word}" for word in ("dual_clip", "by_sequence", "by_constant"))]
    assert [arm.name for arm in arms] == expected
    arms = make_arms("full", ["loss_normalization", "facts", "dual_clip"])
    assert len(arms) == len({arm.name for arm in arms}) == 2 * 2 * 3 and arms[0] == RECIPE
    (arm,) = [arm for arm in arms if arm.name == f"no_{plain}-dual_clip-by_sequence"]
    assert arm.word("dual_clip") == "dual_clip" and arm.word("entropy_coef") == "published"
    assert arm.replace("loss_normalization", "published").name == f"no_{plain}-dual_clip"
    assert [level.flags for level in arm.levels()][-2:] == [
        ("--dual_clip", "3"),
        ("--loss_normalization", "sequence"),
    ]


def test_words_of_settings_differ():
    """They make the name of an arm's folder."""
    words = [word for factor in CHOICES.values() for word in factor.words if word != "published"]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("kind", [LossArguments])
def test_every_setting_of_the_optimiser_can_be_varied(kind):
    varied = {flag for factor in OFFERED.values() for level in factor.levels for flag in level.flags[::2]}
    assert {f"--{field.name}" for field in fields(kind)} <= varied


@pytest.mark.parametrize("name", OFFERED)
def test_what_is_offered_is_a_setting_of_ppo(name):
    for level in OFFERED[name].levels[1:]:
        assert level.flags or level.variables
        kinds = [kind for kind in PPO_ARGUMENTS if {field.name for field in fields(kind)} & flags_of(level)]
        read = StrictParser(kinds).parse(list(level.flags))
        for flag, value in zip(level.flags[::2], level.flags[1::2], strict=True):
            (found,) = (vars(settings)[flag[2:]] for settings in read if flag[2:] in vars(settings))
            assert str(getattr(found, "value", found)) in (value, f"{value}.0")


def flags_of(level):
    return {flag.removeprefix("--") for flag in level.flags}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--factors", "facts", "colour"], "--factors colour: choose from facts, correct_bonus"),
        (["--seeds", "1", "2", "1"], "--seeds 1 2 1: something is named twice"),
        (["--seeds", "-1"], "--seeds -1: one or more numbers"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--scripts", "scripts"], "--scripts scripts: has no ablation_seed.sh"),
        (["--design", "half"], "half"),
        (["--seed", "0"], "--seeds"),
        (["--factors", "kl_form", "kl_placement"], "kl_form and kl_placement can't be combined"),
        (["--factors", "advantage_estimator", "reward_placement"], "leave one of them out, or use --design"),
    ],
)
def test_mistakes_are_refused(arguments, complaint, tmp_path):
    parser = StrictParser((AblationArguments,))
    with pytest.raises(ValueError, match=complaint):
        parser.parse([*TINY, "--output_dir", str(tmp_path), *arguments])


def test_the_published_recipe_is_an_arm_of_its_own():
    arms = make_arms("one_off", ["advantage_estimator", "value_sees_facts"])
    levels = {arm.name.removeprefix(RECIPE.name).lstrip("-"): arm.levels()[-1] for arm in arms[1:]}
    assert list(levels) == ["published_recipe", "rloo", "grpo", "reinforce", "critic_without_facts"]
    assert levels["published_recipe"] == Level("published_recipe", variables={"RECIPE": "published"})
    assert not any("RECIPE" in level.variables for level in RECIPE.levels())


@pytest.mark.parametrize("factor", ["advantage_estimator", "value_sees_facts"])
def test_a_critic_is_not_varied_under_the_published_recipe(factor):
    with pytest.raises(ValueError, match=f"RECIPE=published with --factors {factor}: .* unset RECIPE"):
        check_recipe(["facts", factor], {"RECIPE": "published"})
    check_recipe(["facts", factor], {"RECIPE": "modern"})
    check_recipe(["facts", "dual_clip"], {"RECIPE": "published"})


@pytest.mark.parametrize("pair", NOT_TOGETHER)
def test_what_does_not_go_together_can_be_compared_one_by_one(pair, tmp_path):
    argv = [*TINY, "--output_dir", str(tmp_path), "--factors", *pair]
    (arguments,) = StrictParser((AblationArguments,)).parse([*argv, "--design", "one_off"])
    arms = make_arms("one_off", arguments.factors)
    assert not [arm for arm in arms if all(arm.word(name) != RECIPE.word(name) for name in pair)]
    with pytest.raises(ValueError, match="can't be combined"):
        StrictParser((AblationArguments,)).parse(argv)
