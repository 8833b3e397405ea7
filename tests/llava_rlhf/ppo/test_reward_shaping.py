"""Each ingredient of the reward by hand arithmetic, and each switch."""

from __future__ import annotations

import math

import pytest
import torch

from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.reward_shaping import shape_rewards

RESPONSE_LEN = 8
# Two responses: 4 tokens that end with a stop, 2 tokens cut off.
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
LOG_PROBS = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-1.0, -1.0, 99.0, 99.0]])
REF_LOG_PROBS = torch.tensor(
    [[-1.5, -1.0, -3.0, -4.0], [-1.0, -3.0, -99.0, -99.0]]
)  # 99: padding is never read
SCORES = torch.tensor([1.0, -0.5])
OFF = {
    "penalize_no_stop_token": False,
    "length_bonus_score": 0.0,
    "correct_bonus_score": 0.0,
    "reward_bias": 0.0,
}


def item(answer_type=AnswerType.GENERAL, length_bonus=1.0):
    pixels = torch.zeros(0, 3, 2, 2)
    return PromptItem(0, "id", [1], [2], (), pixels, None, answer_type, length_bonus, (), "what?")


def experience(texts=("", ""), types=(AnswerType.GENERAL, AnswerType.GENERAL), multipliers=(1.0, 1.0)):
    nothing = torch.zeros(2, 4)
    none = ImageFeatures([], [], [[], []])
    return Experience(
        items=[item(kind, bonus) for kind, bonus in zip(types, multipliers, strict=True)],
        responses=torch.ones(2, 4, dtype=torch.long),
        response_mask=MASK,
        counted=MASK,
        finite=torch.tensor([True, True]),
        stopped=torch.tensor([True, False]),
        texts=list(texts),
        log_probs=LOG_PROBS,
        ref_log_probs=REF_LOG_PROBS,
        entropies=nothing,
        ref_entropies=nothing,
        values=nothing,
        scores=SCORES,
        policy_images=none,
        reward_images=none,
        sequence_lengths=[4, 4],
    )


def shape(kl_coef=0.0, what=None, **switches):
    return shape_rewards(what or experience(), RESPONSE_LEN, RewardArguments(**{**OFF, **switches}), kl_coef)


def close(tensor, expected):
    torch.testing.assert_close(tensor, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_with_everything_off_the_reward_is_the_score_on_the_last_real_token():
    shaped = shape()
    close(shaped.rewards, [[0, 0, 0, 1.0], [0, -0.5, 0, 0]])
    close(shaped.score, SCORES.tolist())
    for term in (shaped.stop_penalty, shaped.length_bonus, shaped.correct_bonus):
        close(term, [0.0, 0.0])
    assert not shaped.non_score.any()


def test_a_relative_stop_penalty_is_added_where_the_stop_is_missing():
    shaped = shape(penalize_no_stop_token=True, penalty_reward_value=-8.0)
    close(shaped.stop_penalty, [0.0, -8.0])
    close(shaped.score, [1.0, -8.5])


def test_an_absolute_stop_penalty_replaces_the_score():
    shaped = shape(penalize_no_stop_token=True, penalty_reward_value=-8.0, relative_stop_token_penalty=False)
    close(shaped.score, [1.0, -8.0])
    close(shaped.stop_penalty, [0.0, -7.5])


def test_the_length_term_is_the_used_share_times_the_rows_multiplier():
    shaped = shape(what=experience(multipliers=(1.0, 0.5)), length_bonus_score=-10.0)
    # -10 · 4/8 · 1 and -10 · 2/8 · 0.5
    close(shaped.length_bonus, [-5.0, -1.25])
    close(shaped.score, [-4.0, -1.75])


@pytest.mark.parametrize(
    ("answer_type", "right", "wrong", "reward"),
    [
        (AnswerType.GENERAL, "No, A. cat", "", 0.0),
        (AnswerType.A_IN_ABCD, "A. a cat", "B. a dog", 2.0),
        (AnswerType.B_IN_ABCD, "The correct option is B.", "A. a cat", 2.0),
        (AnswerType.C_IN_ABCD, "C. a bird", "D. a car", 2.0),
        (AnswerType.D_IN_ABCD, "D. a car", "C. a bird", 2.0),
        (AnswerType.NO_IN_YESNO, "No, there is none.", "Nobody knows", 1.0),
        (AnswerType.YES_IN_YESNO, "Yes.", "No.", 0.0),
    ],
)
def test_the_correctness_term_of_every_answer_type(answer_type, right, wrong, reward):
    rows = experience((right, wrong), (answer_type, answer_type))
    shaped = shape(what=rows, correct_bonus_score=2.0)
    close(shaped.correct_bonus, [reward, 0.0])
    close(shaped.score, [1.0 + reward, -0.5])


def test_a_wrong_yes_costs():
    rows = experience(("Yes, there is.", "no"), (AnswerType.NO_IN_YESNO, AnswerType.NO_IN_YESNO))
    close(shape(what=rows, correct_bonus_score=2.0).correct_bonus, [-1.0, 1.0])


def test_the_bias_is_added_to_every_score():
    close(shape(reward_bias=0.25).score, [1.25, -0.25])


@pytest.mark.parametrize(
    ("estimator", "kl"),
    [
        # log π − log π_ref is 0.5, −1, 0, 0 and 0, 2.
        ("k1_clamped", [[0.5, 0, 0, 0], [0, 2.0, 0, 0]]),
        ("k1", [[0.5, -1.0, 0, 0], [0, 2.0, 0, 0]]),
        ("k3", [[math.exp(-0.5) - 0.5, math.e - 2.0, 0, 0], [0, math.exp(-2.0) + 1.0, 0, 0]]),
    ],
)
def test_the_kl_penalty_of_each_estimator(estimator, kl):
    shaped = shape(kl_coef=0.1, kl_estimator=estimator)
    close(shaped.kl, kl)
    penalty = -0.1 * torch.tensor(kl)
    close(shaped.non_score, penalty.tolist())
    close(shaped.rewards, (penalty + torch.tensor([[0, 0, 0, 1.0], [0, -0.5, 0, 0]])).tolist())


def test_all_terms_add_up():
    rows = experience(("A. a cat", "no"), (AnswerType.A_IN_ABCD, AnswerType.NO_IN_YESNO))
    shaped = shape_rewards(rows, RESPONSE_LEN, RewardArguments(reward_bias=0.5), kl_coef=0.1)
    # score + stop + length + correctness + bias: 1 + 0 − 5 + 2 + 0.5 and −0.5 − 8 − 2.5 + 1 + 0.5
    close(shaped.score, [-1.5, -9.5])
    close(shaped.rewards, [[-0.05, 0, 0, -1.5], [0, -9.7, 0, 0]])


def test_a_masked_response_is_not_penalised():
    """The second response has 2 tokens and no stop: overlong where 2 are allowed, and only cut off where 3 are."""
    settings, mask = RewardArguments(**{**OFF, "penalize_no_stop_token": True}), "mask"
    for response_len, overlong, masked in ((2, mask, True), (3, mask, False), (2, "penalize", False)):
        loss = LossArguments(overlong_responses=overlong)
        shaped = shape_rewards(experience(), response_len, settings, 0.1, loss)
        assert shaped.masked.tolist() == [False, masked]
        assert shaped.stop_penalty.tolist() == [0.0, 0.0 if masked else -8.0]


def test_a_kl_in_the_loss_is_none_in_the_reward():
    settings, loss = RewardArguments(**OFF, kl_estimator="k1"), LossArguments(kl_placement="loss")
    shaped = shape_rewards(experience(), RESPONSE_LEN, settings, 0.1, loss)
    torch.testing.assert_close(shaped.kl, (LOG_PROBS - REF_LOG_PROBS) * MASK)  # still measured
    assert shaped.non_score.abs().max() == 0
    assert shaped.rewards.tolist() == [[0, 0, 0, 1.0], [0, -0.5, 0, 0]]
