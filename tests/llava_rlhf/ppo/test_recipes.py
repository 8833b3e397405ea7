"""A recipe changes defaults, and only those of flags that nobody gave."""

from __future__ import annotations

import re
from dataclasses import MISSING

import pytest

from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.recipes import recipe_defaults
from llava_rlhf.runs.parsing import ArgumentError, StrictParser
from llava_rlhf.train_rl_model import ARGUMENTS
from tests.support.ppo_settings import ppo_arguments

NEEDED = [
    word
    for name in (
        "base_model_name policy_model_name_or_path reward_model_name_or_path output_dir dataset_path image_folder "
        "reward_prompt_file"
    ).split()
    for word in (f"--{name}", "x")
]


MODERN = dict(recipe_defaults("modern", critic=True))


def values(*argv: str) -> dict:
    return StrictParser(ARGUMENTS).parse_values([*NEEDED, *argv])


def test_published_is_what_the_fields_say():
    fields = [one for cls in ARGUMENTS for one in cls.__dataclass_fields__.values()]
    plain = {one.name: one.default for one in fields if one.default is not MISSING}
    found = values("--recipe", "published")
    assert {name for name, value in plain.items() if found[name] != value} <= {"recipe"}
    assert not recipe_defaults("published", critic=True) and len(plain) > 50


def test_modern_is_the_default():
    found, named = values(), values("--recipe", "modern")
    assert found == named and {name: found[name] for name in MODERN} == MODERN
    assert MODERN == {"normalize_returns": True, "value_sees_facts": True}


def test_modern_sets_what_it_names_and_nothing_else():
    before, after = values("--recipe", "published"), values("--recipe", "modern")
    expected = dict(recipe_defaults("modern", critic=True))
    assert {name: after[name] for name in expected} == expected
    assert {name for name in after if after[name] != before[name]} == {*expected, "recipe"}


def test_a_flag_that_is_given_wins_wherever_it_stands():
    name, value = next(iter(MODERN.items()))
    other = not value
    for argv in ((f"--{name}", str(other), "--recipe", "modern"), ("--recipe=modern", f"--{name}={other}")):
        assert values(*argv)[name] == other


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "reinforce"])
def test_without_a_critic_nothing_is_set_for_one(estimator):
    argv = ["--recipe", "modern", "--advantage_estimator", estimator, "--samples_per_prompt", "4"]
    found, plain = values(*argv), values("--recipe", "published")
    assert {name: found[name] for name in MODERN} == {name: plain[name] for name in MODERN}
    settings = EstimatorArguments(advantage_estimator=estimator, samples_per_prompt=4)
    settings.check_with(ppo_arguments(lam=found["lam"]), RewardArguments())


def test_a_critic_is_not_to_see_facts_where_there_are_none():
    assert values("--recipe", "modern")["value_sees_facts"] is True
    found = values("--recipe", "modern", "--facts", "False")
    assert (found["value_sees_facts"], found["normalize_returns"]) == (False, True)
    assert values("--recipe", "modern", "--no_facts")["value_sees_facts"] is False


def test_a_critic_is_not_to_see_facts_that_the_prompt_has_no_place_for(tmp_path):
    for text, place in (("Is it good?", False), ("Is it good? {factual_prompt}", True)):
        prompt = tmp_path / "prompt.txt"
        prompt.write_text(text, encoding="utf-8")
        found = values("--reward_prompt_file", str(prompt))
        assert (found["value_sees_facts"], found["normalize_returns"]) == (place, True)
    assert values("--reward_prompt_file", str(tmp_path / "none"))["value_sees_facts"] is True


def test_returns_of_whitened_rewards_keep_their_units():
    for said in (["--whiten_rewards", "True"], ["--whiten_rewards"], ["--whiten_rewards=yes"]):
        found = values(*said)
        assert (found["whiten_rewards"], found["normalize_returns"]) == (True, False)
        assert found["value_sees_facts"] is True
    assert values("--whiten_rewards", "False")["normalize_returns"] is True


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ArgumentError, match=r"published.{1,8}modern"):
        StrictParser(ARGUMENTS).parse([*NEEDED, "--recipe", "classic"])


def test_help_shows_the_defaults_that_follow(capsys):
    with pytest.raises(SystemExit):
        StrictParser(ARGUMENTS).parse(["--recipe", "modern", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, value in MODERN.items():
        entry = next(part for part in re.split(r" --(?=\w+ [A-Z\[{])", shown) if part.startswith(f"{name} "))
        assert f"(default: {value})" in entry
