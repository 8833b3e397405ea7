"""The arms of a study."""

from __future__ import annotations

import itertools

import pytest

from llava_rlhf.ablation.arguments import AblationArguments
from llava_rlhf.ablation.design import FACTORS, RECIPE, make_arms
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
    ],
)
def test_mistakes_are_refused(arguments, complaint, tmp_path):
    parser = StrictParser((AblationArguments,))
    with pytest.raises(ValueError, match=complaint):
        parser.parse([*TINY, "--output_dir", str(tmp_path), *arguments])
