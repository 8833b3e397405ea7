"""Agreement statistics against hand arithmetic and a slow literal loop."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from llava_rlhf.collection.agreement import krippendorff_alpha, pairwise

# Krippendorff (2004), chapter 11: four observers, twelve units, gaps; the book gives 0.743 for nominal data.
BOOK = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}


def by_item(rows: dict[str, str]) -> dict[int, dict[str, str]]:
    columns = {name: text.split() for name, text in rows.items()}
    length = len(next(iter(columns.values())))
    return {
        item: {name: labels[item] for name, labels in columns.items() if labels[item] != "."}
        for item in range(length)
    }


def test_alpha_of_the_book():
    assert krippendorff_alpha(by_item(BOOK)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_by_hand():
    # Units (1,1), (1,2), (2,2), one label alone. 6 values, three of each: D_e = 2·3·3 / (6·5) = 0.6;
    # D_o = (0 + 2/1 + 0) / 6 = 1/3; alpha = 1 − (1/3)/0.6 = 4/9.
    labels = by_item({"a": "1 1 2 1", "b": "1 2 2 ."})
    assert krippendorff_alpha(labels) == pytest.approx(4 / 9, abs=1e-12)


def literal_alpha(labels: dict) -> float:
    """1 − D_o / D_e, pair of values by pair of values."""
    units = [list(by.values()) for by in labels.values() if len(by) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(
        values
    )
    expected = sum(a != b for a, b in permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def test_alpha_equals_the_definition():
    rng = random.Random(0)
    for _ in range(30):
        labels = {
            item: {name: rng.choice("12tb") for name in "abcd" if rng.random() < 0.6} for item in range(12)
        }
        assert krippendorff_alpha(labels) == pytest.approx(literal_alpha(labels), abs=1e-12)


@pytest.mark.parametrize("labels", [{}, {0: {"a": "1"}}, {0: {"a": "1", "b": "1"}, 1: {"a": "1", "b": "1"}}])
def test_alpha_where_there_is_nothing_to_say(labels):
    assert krippendorff_alpha(labels) is None


def test_kappa_by_hand():
    # Cohen's textbook table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no. Agreement 0.7, chance 0.5·0.6 + 0.5·0.4 = 0.5.
    table = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    cells = [cell for cell, count in table.items() for _ in range(count)]
    labels = {item: {"ann": a, "bob": b} for item, (a, b) in enumerate(cells)}
    labels[100] = {"ann": "no"}  # only one of them: not counted
    (found,) = pairwise(labels)
    assert (found.annotators, found.items) == (("ann", "bob"), 50)
    assert found.agreement == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)


def test_kappa_without_any_choice_and_without_common_items():
    assert pairwise({0: {"a": 1, "b": 1}})[0].kappa is None
    assert pairwise({0: {"a": 1}, 1: {"b": 1}}) == []
