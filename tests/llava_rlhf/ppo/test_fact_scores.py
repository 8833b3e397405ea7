"""What facts pay in PPO: on the right tokens of every tokenizer, in the score, and in a rollout's row."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from data_utils.fact_lists import captions_as_facts
from data_utils.schema import AnswerType
from llava_rlhf.assembly.token_text import TokenText, token_text
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.mentions import MentionReward, word_list
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.fact_scores import FactScorer, FactScores
from llava_rlhf.ppo.reward_scores import SentenceScores
from llava_rlhf.ppo.reward_shaping import shape_rewards
from models.vlm import load_tokenizer
from tests.llava_rlhf.ppo.test_reward_shaping import OFF, RESPONSE_LEN, close, experience
from tests.support.tiny_families import TINY_FAMILIES

LLAMA = "sentencepiece of Llama"
# The tiny LLaVA has few words; the published one's are Llama's.
NAMES = (*(family.model_type for family in TINY_FAMILIES if family.model_type != "llava"), LLAMA)
ARGUMENTS = FactRewardArguments(
    fact_reward="mentions",
    fact_right_score=2.0,
    fact_wrong_score=-3.0,
    fact_coverage_score=4.0,
    unmentioned="penalise",
)
REWARD = MentionReward(word_list(ARGUMENTS), ARGUMENTS)
SCORER = FactScorer(REWARD)
FACTS = captions_as_facts(("a hot dog", "a cat"))
ANSWERS = (
    "A hot dog and two cars.",
    "Ça va 🐕: un café, a hot dog! no cat, 犬 two cars",
    "cars\n\n  a hot dog",
    "👩‍👩‍👧 a hot dog🐈 cars",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, llama_tokenizer):
    folder = tmp_path_factory.mktemp("bases")
    found = {family.model_type: family.save(folder / family.model_type) for family in TINY_FAMILIES}
    return {LLAMA: llama_tokenizer, **{name: load_tokenizer(str(base)) for name, base in found.items()}}


def asked(answer_type=AnswerType.GENERAL):
    return SimpleNamespace(facts=FACTS, answer_type=answer_type)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_rewards_stand_on_the_tokens_that_end_a_mention(tokenizers, name, answer):
    tokenizer = tokenizers[name]
    ids = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    scores = SCORER.scores([asked()], [token_text(tokenizer, ids)], None)
    row = scores.on_mentions(len(ids) + 2)[0].tolist()
    assert sorted(amount for amount in row if amount) == [-3.0, 2.0], "one hot dog, one car"
    for amount, thing in ((2.0, "hot dog"), (-3.0, "cars")):
        token = row.index(amount)
        before, after = (
            tokenizer.decode(ids[:count], skip_special_tokens=True) for count in (token, token + 1)
        )
        assert thing in after and thing not in before, (before, after)
    assert scores.by_mentions().tolist() == [-1.0] and scores.coverage().tolist() == [2.0]


def test_a_choice_is_not_asked_for_all_there_is(tokenizers):
    ids = tokenizers[LLAMA].encode("a hot dog", add_special_tokens=False)
    text = token_text(tokenizers[LLAMA], ids)
    scores = SCORER.scores([asked(AnswerType.B_IN_ABCD), asked()], [text, text], None)
    assert scores.coverage().tolist() == [0.0, 2.0] and scores.by_mentions().tolist() == [2.0, 2.0]


def by_words(text: str):
    """A token a word."""
    words = text.split()
    ends = [len(" ".join(words[: count + 1])) for count in range(len(words))]
    return TokenText(text, ends)


TEXTS = [by_words("cars cat is cat"), by_words("cat cat")]


@pytest.fixture
def paid():
    """Two responses of 4 and 2 tokens whose scores are 1 and −½."""
    return replace(experience(), facts=SCORER.scores([asked(), asked(AnswerType.NO_IN_YESNO)], TEXTS, None))


def test_a_reward_by_hand(paid):
    shaped = shape_rewards(paid, RESPONSE_LEN, RewardArguments(**OFF), kl_coef=0.0)
    # car −3 and cat 2 on their tokens, half of the facts' two things 4/2 with the score 1 on the last; then cat 2, −½.
    close(shaped.rewards, [[-3.0, 2.0, 0.0, 3.0], [2.0, -0.5, 0.0, 0.0]])
    close(shaped.score, [2.0, 1.5])
    close(shaped.fact_mentions, [-1.0, 2.0])
    close(shaped.fact_coverage, [2.0, 0.0])
    close(shaped.stop_penalty, [0.0, 0.0])


def test_facts_alone_and_half_a_reward_model(paid):
    shaped = shape_rewards(paid, RESPONSE_LEN, RewardArguments(**OFF, reward_model_coef=0.0), kl_coef=0.0)
    close(shaped.rewards, [[-3.0, 2.0, 0.0, 2.0], [2.0, 0.0, 0.0, 0.0]])
    half = RewardArguments(**{**OFF, "penalize_no_stop_token": True}, reward_model_coef=0.5)
    shaped = shape_rewards(paid, RESPONSE_LEN, half, kl_coef=0.0)
    close(shaped.score, [2.0 - 0.5, 2.0 - 0.25 - 8.0])
    close(shaped.stop_penalty, [0.0, -8.0])
    absolute = replace(half, relative_stop_token_penalty=False)
    close(shape_rewards(paid, RESPONSE_LEN, absolute, kl_coef=0.0).score, [1.5, 2.0 - 8.0])


def test_beside_rewards_by_sentence(paid):
    sentences = SentenceScores(TEXTS, [[8, 15], [7]], [[0.8, 1.0], [-0.5]])
    both = replace(paid, sentences=sentences)
    shaped = shape_rewards(both, RESPONSE_LEN, RewardArguments(**OFF, reward_model_coef=0.5), kl_coef=0.0)
    # The first sentence ends with the cat: ½ · 0.8 more there, and less at the end.
    close(shaped.rewards, [[-3.0, 2.4, 0.0, 2.1], [2.0, -0.25, 0.0, 0.0]])
    close(shaped.rewards.sum(1), shaped.score.tolist())


def test_metrics_by_hand():
    answers = ["a cat, cars, cats", "no cat", "is it a cat? a bird"]
    facts = replace(ARGUMENTS, unmentioned="neutral")
    rewards = [MentionReward(REWARD.words, facts).of(text, FACTS, True) for text in answers]
    found = {name: values.tolist() for name, values in FactScores([], rewards).metrics().items()}
    assert found == {
        "objective/fact_mentions": [2.0, 0.0, 0.0],
        "objective/fact_coverage": [2.0, 0.0, 0.0],
        "facts/right": [1.0, 0.0, 0.0],
        "facts/wrong": [0.0, 0.0, 0.0],
        "facts/repeated": [1.0, 0.0, 0.0],
        "facts/unmentioned": [1.0, 0.0, 1.0],
        "facts/unsaid": [0.0, 1.0, 1.0],
        "facts/there": [2.0, 2.0, 2.0],
        "facts/named": [1.0, 0.0, 0.0],
        "facts/silent": [0.0, 1.0, 0.0],
        "facts/undecided": [0.0, 0.0, 0.0],
    }
