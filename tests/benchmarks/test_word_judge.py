"""The judge of the claims' arm: what it says, by hand, and over the wire."""

from __future__ import annotations

import pytest

from benchmarks.facts.word_judge import NAME, chance_of_yes, word_judge
from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, Question, ReplyCache
from llava_rlhf.fact_rewards.claims import CONTRADICTED, SUPPORTED, TOLD, about_facts
from llava_rlhf.ppo.yes_no import FIRST_TOKEN
from llava_rlhf.ppo.yes_no import chance_of_yes as read

NOTES = ["a red-circle.", "a blue-square and a green-cross."]


@pytest.mark.parametrize(
    ("claim", "supported"),
    [
        ("the image shows a red-circle and a blue-square.", 1.0),
        ("the image shows a red-circle, a red-square and a blue-cross.", 1 / 3),
        ("the image shows a red-cross.", 0.0),
        ("No, there is no red-cross.", 1.0),
        ("No, there is no red-circle.", 0.0),
    ],
)
def test_shares_of_what_is_said(claim, supported):
    asked = [about_facts(text, NOTES, "describe the image.", claim) for text in (SUPPORTED, CONTRADICTED)]
    assert [chance_of_yes(text) for text in asked] == pytest.approx([supported, 1 - supported])


def test_what_names_nothing_is_not_said():
    for text in (SUPPORTED, CONTRADICTED):
        assert chance_of_yes(about_facts(text, NOTES, "is there a red-circle in the image?", "Yes.")) == 0


def test_facts_that_claims_tell():
    claims = ["the image shows a blue-square.", "there is no red-circle."]
    assert [chance_of_yes(about_facts(TOLD, claims, "", fact)) for fact in NOTES] == [0.0, 0.5]


def test_a_client_reads_the_same_probability():
    texts = [
        about_facts(SUPPORTED, NOTES, "describe the image.", f"the image shows a {names}.")
        for names in ("red-circle", "red-cross", "red-circle and a red-cross")
    ]
    with word_judge() as server:
        client = JudgeClient(Endpoint(server.url, NAME, FIRST_TOKEN), ReplyCache(None))
        replies = client.ask_all([Question(text, ()) for text in texts])
    assert [read(reply) for reply in replies] == pytest.approx([1.0, 0.0, 0.5])
