"""Things that no fact names are asked of the picture: as a plain model answers, once for each picture, and paid on average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_utils.conversation import query_segments
from data_utils.fact_lists import captions_as_facts
from data_utils.schema import Turn
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.mentions import MentionReward, word_list
from llava_rlhf.ppo.known_answers import CACHE, KnownAnswers, read_answers
from llava_rlhf.ppo.micro_batches import MicroBatches
from tests.support.plain_models import PlainRole, seen
from tests.support.ppo_world import assemble

QUESTION = "is there a {thing} in the image?"
ASKING = {"fact_reward": "mentions", "unmentioned": "ask_picture", "picture_question": QUESTION}
WARM = {"response_len": 24, "temperature": 5.0}
ROWS = list(range(16))


@pytest.fixture(scope="module")
def parts(ppo_on_one_base, tmp_path_factory):
    return assemble(ppo_on_one_base(tmp_path_factory.mktemp("asking") / "run", **ASKING, **WARM), spread=0.05)


@pytest.fixture(scope="module")
def found(parts):
    return parts.collect(ROWS)


@torch.no_grad()
def plain_probability(parts, plain, item, thing):
    """Of yes, by the base with its adapter switched off, one row at a time."""
    text = parts.prepared.text
    turn = Turn("human", "<image>" * len(item.image_names) + QUESTION.replace("{thing}", thing))
    ids = list(text.encoder.encode(query_segments(text.template, (turn,), len(item.image_names))).ids)
    with plain.model.disable_adapter():
        logits = plain.run(ids, seen(item)[1])[1][-1]
    answers = [text.tokenizer.convert_tokens_to_ids(word) for word in ("▁Yes", "▁No")]
    return float(logits[answers].softmax(dim=0)[0])


def asked(found):
    """(row, mention) of what the picture was asked for."""
    return [
        (row, one)
        for row, reward in enumerate(found.facts.rewards)
        for one in reward.mentions
        if one.probability is not None
    ]


def test_answers_are_those_of_the_base_alone(parts, found, policy_run):
    plain = PlainRole(parts.roles.reward.bank.vlm.model.config._name_or_path, policy_run / "lora_policy")
    items = parts.batch(ROWS).items
    some = asked(found)
    assert len(some) > 3 and len({one.mention.name for _, one in some}) > 1
    for row, one in some:
        assert one.probability == pytest.approx(
            plain_probability(parts, plain, items[row], one.mention.name), abs=1e-5
        )
        assert one.reward == pytest.approx(1.5 * one.probability - 0.5) and one.verdict == "unmentioned"


def test_who_is_asked(found):
    for item, reward in zip(found.items, found.facts.rewards, strict=True):
        for one in reward.mentions:
            assert (one.probability is not None) == (one.verdict == "unmentioned" and bool(item.image_names))
    assert any(
        not item.image_names and reward.count("unmentioned")
        for item, reward in zip(found.items, found.facts.rewards, strict=True)
    )


def test_each_picture_is_asked_once_and_together_as_alone(parts, found, monkeypatch):
    scorer = parts.trainer.collector.fact_scorer
    file = Path(parts.prepared.settings.ppo.output_dir) / CACHE.format("mentions", 0)
    known, lines = read_answers(file)
    pictures = {(found.items[row].image_names, one.mention.name) for row, one in asked(found)}
    assert lines == 1 and len(known) == len(pictures) > 3

    def again(answers):
        texts = [SimpleNamespace(text=text) for text in found.texts]
        return replace(scorer, answers=answers).scores(found.items, texts, found.reward_images)

    with monkeypatch.context() as patch:
        patch.setattr(scorer.answers.asker, "probabilities", lambda *arguments: pytest.fail("asked again"))
        for answers in (scorer.answers, KnownAnswers(scorer.answers.asker, file)):  # as in a run that goes on
            assert again(answers).rewards == found.facts.rewards
    monkeypatch.setattr(scorer.answers.asker, "batches", MicroBatches(1))
    alone = again(KnownAnswers(scorer.answers.asker, None))
    for (_, one), (_, other) in zip(asked(found), asked(SimpleNamespace(facts=alone)), strict=True):
        assert one.mention == other.mention and one.probability == pytest.approx(other.probability, abs=1e-5)


def test_what_an_answer_earns_by_hand():
    arguments = FactRewardArguments(
        fact_reward="mentions", unmentioned="ask_picture", fact_right_score=2.0, fact_wrong_score=-3.0
    )
    reward, facts = MentionReward(word_list(arguments), arguments), captions_as_facts(("a dog", "no car"))
    text = "a dog, a car, a bird, a cat, a bird"
    assert reward.unmentioned(text, facts) == ["bird", "cat"]
    found = reward.of(text, facts, False, {"bird": 0.75, "dog": 0.0, "car": 1.0})
    assert [one.reward for one in found.mentions] == [2.0, -3.0, 0.75 * 2 - 0.25 * 3, 0.0, 0.0]
    assert [one.probability for one in found.mentions] == [None, None, 0.75, None, None]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"picture_question": "is it there?"},
            r"--picture_question 'is it there\?': must hold \{thing\} once",
        ),
        (
            {"unmentioned": "neutral", "picture_question": QUESTION},
            "with --unmentioned neutral, which asks nothing",
        ),
    ],
)
def test_questions_that_ask_nothing_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        FactRewardArguments(**{"fact_reward": "mentions", "unmentioned": "ask_picture", **changes})
