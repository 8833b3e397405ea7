"""What claims earn, by hand: sentences, what the facts say of each, and what they leave open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_utils.fact_lists import CAPTION, Fact, FactList
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.claims import (
    CONTRADICTED,
    SUPPORTED,
    TOLD,
    Answered,
    ClaimReward,
    Said,
    about_facts,
    about_picture,
    claims,
    known_facts,
    notes,
)

ARGUMENTS = FactRewardArguments(
    fact_reward="claims", fact_right_score=2.0, fact_wrong_score=-3.0, fact_coverage_score=4.0
)
REWARD = ClaimReward(ARGUMENTS)
FACTS = FactList(
    (
        Fact(CAPTION, "text", "A dog on a couch."),
        Fact("detector", "object", "couch", 0.9),
        Fact("detector", "object", "bird", 0.2),  # not sure, and so not shown
    )
)
QUESTION = "What is there?"
NOTES = ("A dog on a couch.", "detector: couch")
ANSWER = "A dog sits there. The dog is blue! Is it asleep?  It looks old…"
CLAIMS = ("A dog sits there.", "The dog is blue!", "It looks old…")


def answer(text=ANSWER, facts=FACTS, wide=True):
    return Answered(text, QUESTION, facts, wide)


def answered(said, told=()):
    """Question → probability: (supported, contradicted) of each claim, and of the answer's claims each fact."""
    found = {}
    for claim, pair in said.items():
        for template, value in zip((SUPPORTED, CONTRADICTED), pair, strict=True):
            found[about_facts(template, NOTES, QUESTION, claim)] = value
    for fact, value in dict(told).items():
        found[about_facts(TOLD, list(said), "", fact)] = value
    return found


SAID = answered(
    {CLAIMS[0]: (0.9, 0.05), CLAIMS[1]: (0.1, 0.8), CLAIMS[2]: (0.2, 0.2)},
    {"A dog on a couch.": 0.75, "couch": 0.25},
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("  One.  Two three! ", [("One.", 2, 6), ("Two three!", 8, 18)]),
        ("no mark", [("no mark", 0, 7)]),
        ("犬がいる。猫もいる。", [("犬がいる。", 0, 5), ("猫もいる。", 5, 10)]),
        ("👩‍👩‍👧 a dog 🐈. Ça va!\nok", [("👩‍👩‍👧 a dog 🐈.", 0, 14), ("Ça va!", 15, 21), ("ok", 22, 24)]),
        ("e.g. 3.5 m. Then?", [("e.g. 3.5 m. Then?", 0, 17)]),
    ],
)
def test_claims_are_sentences_where_they_stand(text, found):
    assert [(one.name, one.start, one.end) for one in claims(text)] == found
    assert all(text[one.start : one.end] == one.name for one in claims(text))


def test_what_is_asked_of_the_facts():
    assert (notes(FACTS), known_facts(FACTS)) == (NOTES, ("A dog on a couch.", "couch"))
    assert set(REWARD.questions(answer())) == SAID.keys()
    assert len(REWARD.questions(answer(wide=False))) == 2 * len(CLAIMS)
    assert REWARD.questions(answer(facts=FactList())) == [] == REWARD.questions(answer(""))
    without = ClaimReward(replace(ARGUMENTS, fact_coverage_score=0.0))
    assert len(without.questions(answer())) == 2 * len(CLAIMS)


def test_braces_stay_as_they_are():
    text = about_facts(SUPPORTED, ["{claim} of {facts}"], "{claim}?", "a {facts} {question}")
    assert "- {claim} of {facts}\n\nQuestion: {claim}?\nAnswer: a {facts} {question}\n\nDo the notes" in text
    assert "Question: {facts}\nAnswer: {claim} {x}\n" in about_picture("{facts}", "{claim} {x}")
    assert SUPPORTED.replace("true", "false") == CONTRADICTED != SUPPORTED


def test_an_answer_by_hand():
    found = REWARD.of(answer(), SAID)
    # .9 · 2 − .05 · 3 = 1.65; .1 · 2 − .8 · 3 = −2.2; a question; .2 · 2 − .2 · 3 = −.2. Facts told: (.75 + .25) / 2 · 4.
    assert [one.reward for one in found.mentions] == pytest.approx([1.65, -2.2, 0.0, -0.2])
    assert [one.verdict for one in found.mentions] == ["right", "wrong", "unsaid", "unmentioned"]
    assert [one.supported for one in found.mentions] == [0.9, 0.1, None, 0.2]
    assert (found.coverage, found.named, found.there) == (2.0, 1.0, 2)
    assert found.total == pytest.approx(1.25)
    assert found.spans() == [
        (17, pytest.approx(1.65)),
        (34, pytest.approx(-2.2)),
        (len(ANSWER), pytest.approx(-0.2)),
    ]
    assert REWARD.of(answer(wide=False), SAID).coverage == 0.0


def test_what_the_facts_leave_open():
    """Neutral, penalised, complete facts, and a picture that was asked: as for things that are named."""
    # Of the last claim .6 is left open: .6 · −3; or, with .75 that the picture shows it, .6 · (.75 · 2 − .25 · 3).
    penalising = ClaimReward(replace(ARGUMENTS, unmentioned="penalise"))
    complete = replace(FACTS, complete=True)
    for found in (
        penalising.of(answer(wide=False), SAID).mentions[3],
        REWARD.of(answer(facts=complete, wide=False), SAID, {CLAIMS[2]: 0.75}).mentions[3],
    ):
        assert (found.verdict, found.reward) == ("wrong", pytest.approx(-0.2 - 1.8))
    asking = ClaimReward(replace(ARGUMENTS, unmentioned="ask_picture"))
    assert asking.left_open(answer(), SAID) == [CLAIMS[2]]
    assert asking.left_open(answer(facts=complete), SAID) == []
    found = asking.of(answer(wide=False), SAID, {CLAIMS[2]: 0.75}).mentions[3]
    assert (found.verdict, found.probability) == ("unmentioned", 0.75)
    assert found.reward == pytest.approx(-0.2 + 0.6 * 0.75)


@pytest.mark.parametrize(
    ("pair", "neutral", "penalised"),
    [
        # Right 2, wrong −3. What the judge did not say neither pays nor costs; .9 · 2, and the tenth that is left open · −3.
        ((None, None), 0.0, 0.0),
        ((0.9, None), 1.8, 1.8 - 0.3),
        # Whether the facts support it is not known, so that not all the rest is what they are silent of.
        ((None, 0.2), -0.6, -0.6),
        ((0.0, 0.2), -0.6, -0.6 - 2.4),
    ],
)
def test_a_judge_that_says_neither_yes_nor_no_pays_nothing(pair, neutral, penalised):
    said, one = answered({"A cat.": pair}), answer("A cat.", wide=False)
    complete = answer("A cat.", replace(FACTS, complete=True), wide=False)
    punishing = ClaimReward(replace(ARGUMENTS, unmentioned="penalise"))
    for reward, asked, expected in (
        (REWARD, one, neutral),
        (punishing, one, penalised),
        (REWARD, complete, penalised),
    ):
        found = reward.of(asked, said)
        assert found.by_mentions == pytest.approx(expected) and found.undecided == pair.count(None)
    assert REWARD.of(one, said).mentions[0].verdict == ("right" if pair[0] else "unmentioned")
    assert punishing.of(one, answered({"A cat.": (None, None)})).mentions[0].verdict == "unmentioned"


def test_pictures_and_coverage_of_an_undecided_judge():
    asking = ClaimReward(replace(ARGUMENTS, unmentioned="ask_picture"))
    said = answered({"A cat.": (None, None)}, {"A dog on a couch.": None, "couch": 0.5})
    cat = answer("A cat.")
    assert asking.left_open(cat, said) == ["A cat."], "the picture may know"
    found = asking.of(cat, said, {"A cat.": 0.75})
    assert (found.by_mentions, found.undecided) == (pytest.approx(0.75), 3)
    assert (found.named, found.coverage) == (0.5, 1.0), "what is not said to be told is not told"
    found = asking.of(cat, said, {"A cat.": None})
    assert (found.by_mentions, found.undecided) == (0.0, 4)
    assert found.mentions[0].probability is None


def test_without_facts_all_is_open():
    dog = answer("A dog.", FactList())
    found = REWARD.of(dog, {})
    assert [(one.verdict, one.reward) for one in found.mentions] == [("unmentioned", 0.0)]
    assert (found.coverage, found.there) == (0.0, 0)
    asking = ClaimReward(replace(ARGUMENTS, unmentioned="ask_picture"))
    assert asking.left_open(dog, {}) == ["A dog."]
    assert asking.of(dog, {}, {"A dog.": 1.0}).by_mentions == 2.0


def test_a_claim_pays_once():
    text = "A dog sits there. A dog sits there! a  DOG sits there. A cat."
    said = answered({"A dog sits there.": (1.0, 0.0), "A cat.": (0.0, 0.0)})
    assert REWARD.asked(text) == ["A dog sits there.", "A cat."]
    found = REWARD.of(answer(text, wide=False), said)
    assert [one.verdict for one in found.mentions] == ["right", "repeated", "repeated", "unmentioned"]
    assert found.by_mentions == 2.0


def test_an_empty_answer_and_one_of_questions_earn_nothing():
    for text in ("", "Is it a dog? What is it？"):
        found = REWARD.of(answer(text), {})
        assert (found.total, found.named, found.there) == (0.0, 0.0, 2)


@pytest.mark.parametrize(
    ("supported", "contradicted", "expected", "verdict"),
    [
        (0.6, 0.1, (0.6, 0.1), "right"),
        (0.9, 0.9, (0.5, 0.5), "wrong"),  # equally likely: not paid as right
        (0.3, 0.9, (0.25, 0.75), "wrong"),
        (0.0, 0.0, (0.0, 0.0), "unmentioned"),
        (0.5, 0.0, (0.5, 0.0), "unmentioned"),
    ],
)
def test_two_answers_make_one_distribution(supported, contradicted, expected, verdict):
    said = Said.of(supported, contradicted)
    assert (said.supported, said.contradicted) == pytest.approx(expected)
    assert said.open == pytest.approx(1 - sum(expected)) and said.verdict == verdict
