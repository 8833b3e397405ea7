"""Numbers of scored pairs and answers, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.evaluation.reward_summary import (
    answer_numbers,
    by_answer_type,
    format_answers,
    format_pairs,
    pair_numbers,
)

# Chosen − rejected: 1 (right), −1 (wrong), 2 (right), 0 (a tie).
SCORES = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, -1.0], [0.5, 0.5]])
CHOICE = torch.tensor([1, 0, 0, 1])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_pairs_by_hand():
    numbers = pair_numbers(SCORES, CHOICE)
    assert numbers["pairs"] == 4
    assert numbers["accuracy"] == pytest.approx(2.5 / 4)
    spread = sum((value - 0.625) ** 2 for value in (1, 0, 1, 0.5)) / 3
    assert numbers["accuracy_standard_error"] == pytest.approx(math.sqrt(spread / 4))
    assert numbers["mean_margin"] == pytest.approx(0.5)
    margins = [1, -1, 2, 0]
    centre = 1e-3 * abs(1 + 1 + 0 + 1) / 4
    assert numbers["loss"] == pytest.approx(sum(-math.log(sigmoid(m)) for m in margins) / 4 + centre)
    assert numbers["share_2_preferred"] == 0.5
    # score 2 − score 1 is 1, 1, −2, 0: sigmoid .731, .731, .119, .5; response 2 was preferred in the first and the last.
    filled = {item["low"]: item for item in numbers["reliability"] if item["count"]}
    assert sorted(filled) == [0.1, 0.5, 0.7]
    assert (filled[0.7]["count"], filled[0.7]["observed"]) == (2, 0.5)
    assert filled[0.7]["predicted"] == pytest.approx(sigmoid(1))
    assert (filled[0.1]["count"], filled[0.1]["observed"]) == (1, 0.0)
    assert (filled[0.5]["predicted"], filled[0.5]["observed"]) == (0.5, 1.0)
    error = (2 * (sigmoid(1) - 0.5) + sigmoid(-2) + 0.5) / 4
    assert numbers["calibration_error"] == pytest.approx(error)


def test_enormous_margins_stay_finite():
    numbers = pair_numbers(torch.tensor([[-2000.0, 2000.0], [2000.0, -2000.0]]), torch.tensor([1, 1]))
    assert numbers["accuracy"] == 0.5 and numbers["loss"] == pytest.approx(2000)
    assert numbers["calibration_error"] == pytest.approx(0.5)


def test_answers_by_hand():
    numbers = answer_numbers(torch.tensor([4.0, 1.0, 3.0, 2.0]))
    assert (numbers["answers"], numbers["mean"]) == (4, 2.5)
    assert numbers["std"] == pytest.approx(math.sqrt(5 / 3))
    assert numbers["standard_error"] == pytest.approx(math.sqrt(5 / 3) / 2)
    quantiles = numbers["quantiles"]
    assert (quantiles["0.0"], quantiles["0.25"], quantiles["0.5"], quantiles["1.0"]) == (1, 1.75, 2.5, 4)


def test_each_answer_type_has_its_own_numbers():
    kinds = ["GENERAL", "YES_IN_YESNO", "GENERAL", "GENERAL"]
    split = by_answer_type(pair_numbers, kinds, SCORES, CHOICE)
    assert list(split) == ["GENERAL", "YES_IN_YESNO"]
    rows = [0, 2, 3]
    assert split["GENERAL"] == pair_numbers(SCORES[rows], CHOICE[rows])
    one = split["YES_IN_YESNO"]
    assert (one["pairs"], one["accuracy"], one["accuracy_standard_error"]) == (1, 0.0, None)
    answers = by_answer_type(answer_numbers, kinds, SCORES[:, 0])
    assert answers["GENERAL"]["mean"] == 0.5
    assert answers["YES_IN_YESNO"]["std"] is None and answers["YES_IN_YESNO"]["standard_error"] is None


def test_tables_show_every_group_and_every_bin():
    kinds = ["GENERAL", "YES_IN_YESNO", "GENERAL", "GENERAL"]
    pairs = format_pairs(pair_numbers(SCORES, CHOICE), by_answer_type(pair_numbers, kinds, SCORES, CHOICE))
    rows = {line[:14].strip(): line[14:].split() for line in pairs.splitlines()}
    assert rows["all"][:5] == ["4", "0.625", "±", "0.239", "0.500"]
    assert rows["YES_IN_YESNO"][:3] == ["1", "0.000", "-1.000"]
    assert rows["0.7 to 0.8"] == ["2", "0.731", "0.500"] and rows["0.2 to 0.3"] == ["0", "-", "-"]
    first = SCORES[:, 0]
    answers = format_answers(answer_numbers(first), by_answer_type(answer_numbers, kinds, first))
    rows = {line[:14].strip(): line[14:].split() for line in answers.splitlines()}
    assert rows["GENERAL"] == "3 0.500 ± 0.289 0.500 0.000 0.050 0.250 0.500 0.750 0.950 1.000".split()
    assert rows["YES_IN_YESNO"][:3] == ["1", "0.000", "-"]
