"""What mentions earn, by hand; what the facts of a row say of things; and that saying nothing never pays."""

from __future__ import annotations

import pytest

from data_utils.fact_lists import Fact, FactList, captions_as_facts
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.mentions import MentionReward, truth, word_list
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.runs.arguments import DataArguments

CAPTIONS = captions_as_facts(("A dog and a cat on a couch.", "There is no car. Is it a horse?"))
SCORES = {"fact_right_score": 2.0, "fact_wrong_score": -3.0, "fact_coverage_score": 6.0}


def reward(**changes) -> MentionReward:
    arguments = FactRewardArguments(fact_reward="mentions", **changes)
    return MentionReward(word_list(arguments), arguments)


def verdicts(text: str, facts: FactList = CAPTIONS, **changes) -> list[tuple[str, str]]:
    found = reward(**changes).of(text, facts, True)
    return [(one.mention.name, one.verdict) for one in found.mentions]


def test_a_score_by_hand():
    # dog +2, bird 0 (nobody knows), car −3 (the captions deny it), dog again 0; one of three: 6/3 at the end.
    text = "A dog and a bird beside a car. The dog is brown; no cat."
    found = reward(**SCORES).of(text, CAPTIONS, True)
    assert [
        (text[one.mention.start : one.mention.end], one.verdict, one.reward) for one in found.mentions
    ] == [
        ("dog", "right", 2.0),
        ("bird", "unmentioned", 0.0),
        ("car", "wrong", -3.0),
        ("dog", "repeated", 0.0),
        ("cat", "unsaid", 0.0),
    ]
    assert (found.named, found.there, found.coverage) == (1, 3, 2.0)
    assert (found.by_mentions, found.total) == (-1.0, 1.0)
    assert found.spans() == [(5, 2.0), (29, -3.0)]


def test_coverage_is_asked_of_open_questions_alone():
    found = reward(**SCORES).of("A dog.", CAPTIONS, False)
    assert (found.coverage, found.total, found.named) == (0.0, 2.0, 1)


def test_a_thing_that_was_denied_first_is_still_its_first_mention():
    assert verdicts("Not only a dog. No cat, but then a cat.") == [
        ("dog", "right"),
        ("cat", "unsaid"),
        ("cat", "right"),
    ]


def test_a_wrong_thing_costs_once():
    assert verdicts("cars, cars and a bus", unmentioned="penalise") == [
        ("car", "wrong"),
        ("car", "repeated"),
        ("bus", "wrong"),
    ]


def test_what_facts_say_of_things():
    known = truth(CAPTIONS, word_list(FactRewardArguments()))
    assert known.there == {"dog", "cat", "couch"} and known.absent == {"car"}
    assert known.unsure == frozenset() and not known.complete


def test_one_caption_that_names_a_thing_outweighs_one_that_denies_it():
    facts = captions_as_facts(("no dog", "a dog"))
    assert verdicts("a dog", facts) == [("dog", "right")]
    assert truth(facts, word_list(FactRewardArguments())).absent == frozenset()


@pytest.mark.parametrize(
    ("unmentioned", "complete", "verdict"),
    [
        ("neutral", False, "unmentioned"),
        ("neutral", True, "wrong"),
        ("penalise", False, "wrong"),
        ("penalise", True, "wrong"),
    ],
)
def test_what_nobody_mentions(unmentioned, complete, verdict):
    facts = FactList((Fact("boxes", "object", "dog"),), complete)
    assert verdicts("a bird", facts, unmentioned=unmentioned) == [("bird", verdict)]
    assert verdicts("a dog", facts, unmentioned=unmentioned) == [("dog", "right")]


def test_what_a_source_is_not_sure_of_is_neither_right_nor_wrong():
    facts = FactList(
        (Fact("boxes", "object", "dog", 0.49), Fact("boxes", "object", "cat", 0.5)), complete=True
    )
    assert verdicts("a dog, a cat, a bird", facts) == [
        ("dog", "unmentioned"),
        ("cat", "right"),
        ("bird", "wrong"),
    ]
    assert reward(**SCORES).of("a cat", facts, True).coverage == 6.0


def test_relations_and_synonyms_name_things():
    facts = FactList((Fact("graph", "relation", "puppy on sofa"), Fact("ocr", "text", "STOP")))
    assert verdicts("a dog on a couch, a stop sign", facts) == [
        ("dog", "right"),
        ("couch", "right"),
        ("stop sign", "unmentioned"),
    ]


# The omission trap: facts of two things, and answers that an image may get.
TWO = captions_as_facts(("a dog on a couch",))
SILENT = (
    "",
    "I can't say.",
    "There is an image.",
    "There is no dog.",
    "Is there a dog?",
    "no dog, no couch, no cat",
)


def cost_of_length(text: str) -> float:
    """What the length term takes from a response in which every word is two tokens, with the stop token."""
    response_len = DataArguments.__dataclass_fields__["response_len"].default
    return RewardArguments().length_bonus_score * (2 * len(text.split()) + 1) / response_len


@pytest.mark.parametrize("facts", [TWO, FactList(TWO.facts, complete=True)])
@pytest.mark.parametrize("unmentioned", ["neutral", "penalise"])
def test_saying_nothing_loses_under_every_default(facts, unmentioned):
    pays = reward(unmentioned=unmentioned)

    def score(text: str) -> float:
        return pays.of(text, facts, True).total + cost_of_length(text)

    one, both = score("The image shows a dog."), score("A dog is lying on a couch.")
    fair = score("A dog is lying on a couch, and beside it there may be a bird.")
    for silent in SILENT:
        assert score(silent) <= 0 < one < both, silent
        assert score(silent) < fair, "one wrong beside two right is better than nothing"
    wrong = score("A bus.")
    assert wrong < score("") if unmentioned == "penalise" or facts.complete else wrong < one


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_naming_one_thing_rightly_pays_however_many_there_are(count):
    names = sorted(word_list(FactRewardArguments()).names - {"dog"})[: count - 1]
    facts = captions_as_facts(tuple(f"a {name}" for name in ["dog", *names]))
    text = "There is a dog."
    assert reward().of(text, facts, True).total + cost_of_length(text) > 0.5 > cost_of_length("")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fact_right_score": -1.0}, "--fact_right_score -1.0: must be at least 0, and finite"),
        ({"fact_wrong_score": 1.0}, "--fact_wrong_score 1.0: must be at most 0, and finite"),
        ({"fact_coverage_score": float("nan")}, "--fact_coverage_score nan: must be at least 0"),
        (
            {"fact_right_score": 0.0, "fact_coverage_score": 0.0},
            "an answer that says nothing would earn most",
        ),
        ({"fact_reward": "none", "unmentioned": "penalise"}, "--unmentioned penalise without a fact reward"),
        ({"fact_synonyms": "nowhere.txt"}, "--fact_synonyms nowhere.txt: no such file"),
    ],
)
def test_settings_without_sense_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        FactRewardArguments(**{"fact_reward": "mentions", **changes})
