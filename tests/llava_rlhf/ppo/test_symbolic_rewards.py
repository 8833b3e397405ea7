"""Symbolic rewards: the published table, adversarial answers, and the recorded bonuses of the original."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_utils.schema import AnswerType
from llava_rlhf.ppo.symbolic_rewards import correctness, length_term

LETTERS = dict(zip("ABCD", list(AnswerType)[1:5], strict=True))
NO, YES = AnswerType.NO_IN_YESNO, AnswerType.YES_IN_YESNO

NO_ANSWERS = [
    "No",
    "no",
    "NO",
    "No.",
    "no .",
    "no , no red-circle .",
    "No, there is not.",
    " \n No",
    "\u00a0No",
    "No - none",
]
YES_ANSWERS = ["Yes", "yes", "YES!", "Yes, there is.", "yes , a red-circle .", "Yes no", "Yes: one"]
OTHER_ANSWERS = [
    *[
        "",
        "  ",
        "?",
        "Nobody knows",
        "Nobody is there.",
        "None",
        "None of them",
        "Not sure",
        "Nothing",
        "Note: yes",
    ],
    *[
        "No-one is there",
        "No\u2019one",
        "Nope",
        "Know",
        "Yesterday it was.",
        "Yeses",
        "Yes-man",
        "There is no color.",
    ],
    *[
        "\u65e0",
        "\u3044\u3044\u3048",
        "Nó",
        "No\u0301",
        "🙂 No",
        "\u200bNo",
        "N o",
        "1",
        "_No",
        "No1",
        "\x00",
    ],
]

OPTION_ANSWERS = {  # response -> the one letter it states
    "A. pizza": "A",
    " A. with space": "A",
    "\nB. newline first": "B",
    "D.": "D",
    "C . soup": "C",
    "A.pizza": "A",
    "The correct option is C.": "C",
    "so the correct option is A. pizza": "A",
    "correct option is B.": "B",
    "The correct option is D. salad, not A.": "D",
    "A. B.": "A",
    "A. B. C. D.": "A",
    "B. A.": "B",
    "A. No, the correct option is B.": "A",
    "The correct option is A. The correct option is B.": "A",
    "The incorrect option is B. The correct option is C.": "C",
    "E. The correct option is D.": "D",
}
NO_OPTION = [
    *[
        "",
        " ",
        "A",
        "A pizza",
        "A, B",
        "AB.",
        "a. pizza",
        "c. soup",
        "(A).",
        "The correct option is (A).",
        "pizza A.",
    ],
    *["The correct option is not A.", "The incorrect option is B.", "The correct option is a.", "Option A."],
    *["\uff21. full-width", "\u0391. Greek Alpha", "A\u0301. accent", "🙂", "Correct option is E."],
]


@pytest.mark.parametrize(
    ("responses", "bonus"),
    [(NO_ANSWERS, 0.5), (YES_ANSWERS, -0.5), (OTHER_ANSWERS, 0.0)],
    ids=["no", "yes", "other"],
)
def test_no_questions_look_at_the_whole_first_word(responses, bonus):
    assert {response: correctness(response, NO) for response in responses} == dict.fromkeys(responses, bonus)


@pytest.mark.parametrize("letter", LETTERS)
def test_options_earn_for_the_first_one_stated(letter):
    earned = {response: correctness(response, LETTERS[letter]) for response in OPTION_ANSWERS}
    assert earned == {response: float(stated == letter) for response, stated in OPTION_ANSWERS.items()}
    assert {response: correctness(response, LETTERS[letter]) for response in NO_OPTION} == dict.fromkeys(
        NO_OPTION, 0.0
    )


@pytest.mark.parametrize("answer_type", [AnswerType.GENERAL, YES])
def test_types_without_a_bonus(answer_type):
    for response in [*NO_ANSWERS, *YES_ANSWERS, *OTHER_ANSWERS, *OPTION_ANSWERS]:
        assert correctness(response, answer_type) == 0.0


def test_answer_types_may_be_given_by_number():
    assert correctness("B. cake", 3) == 1.0
    with pytest.raises(ValueError, match="8 is not a valid AnswerType"):
        correctness("B. cake", 8)


@pytest.fixture(scope="module")
def samples():
    """32 hand-written responses and what the original made of them."""
    path = Path(__file__).parents[2] / "references" / "ppo_math.json"
    return json.loads(path.read_text(encoding="utf-8"))["rollout_stub/samples"]


def test_recorded_bonuses_except_for_the_intended_departures(samples):
    ours = [correctness(row["text_after_truncation"], row["type_id"]) for row in samples]
    different = {
        row["text_after_truncation"]: (row["correct_bonus"], bonus)
        for row, bonus in zip(samples, ours, strict=True)
        if row["correct_bonus"] != bonus
    }
    assert different == {
        "Nobody is there.": (0.5, 0.0),  # whole words only
        "Yesterday it was.": (-0.5, 0.0),
        "no": (0.0, 0.5),  # in any capitals
    }
    assert len(samples) == 32 and {1.0, 0.5, -0.5, 0.0} == set(ours)


def test_length_term_by_hand():
    term = length_term(torch.tensor([5, 10, 20]), 20, torch.tensor([1.0, 0.5, 2.0]))
    assert term.tolist() == [0.25, 0.25, 2.0]


def test_recorded_length_terms(samples):
    with np.load(Path(__file__).parents[2] / "references" / "ppo_math.npz") as file:
        multiplier = torch.from_numpy(file["rollout_stub/in/length_bonus_multiplier"])
    tokens = torch.tensor([sum(map(bool, row["truncated_ids"])) for row in samples])
    term = length_term(tokens, 20, multiplier)
    recorded = torch.tensor([row["length_bonus"] for row in samples])
    torch.testing.assert_close(term, recorded, rtol=1e-5, atol=1e-6)
    assert term.max() > 0.5
