"""The value of the best of n against all choices written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from llava_rlhf.functional.best_of_n import expected_of_best


def test_what_the_best_is_worth_is_the_mean_over_all_choices_and_over_ties():
    scores = torch.tensor([2.0, 0.5, 2.0, -1.0, 2.0, 0.5])
    values = torch.tensor([1.0, 4.0, 0.0, 7.0, -2.0, 9.0])
    for n in range(1, len(scores) + 1):
        worth = []
        for choice in itertools.combinations(range(len(scores)), n):
            highest = max(scores[place] for place in choice)
            worth.append(np.mean([float(values[place]) for place in choice if scores[place] == highest]))
        assert expected_of_best(scores, values, n) == pytest.approx(np.mean(worth), rel=1e-12)
