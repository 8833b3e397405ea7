"""Reliability bins by hand, and on predictions whose error is known."""

from __future__ import annotations

import numpy as np
import pytest

from llava_rlhf.evaluation.calibration import ReliabilityBin, expected_calibration_error, reliability_bins


def test_bins_by_hand():
    bins = reliability_bins([0.05, 0.15, 0.12, 0.95, 1.0, 0.5], [0, 0, 1, 1, 1, 1])
    filled = {
        0: (1, 0.05, 0.0),
        1: (2, 0.135, 0.5),
        5: (1, 0.5, 1.0),  # a bin holds its lower limit
        9: (2, 0.975, 1.0),  # the last one also holds 1
    }
    assert [item.count for item in bins] == [filled.get(place, (0,))[0] for place in range(10)]
    for place, (count, predicted, observed) in filled.items():
        assert bins[place] == ReliabilityBin(
            place / 10, (place + 1) / 10, count, pytest.approx(predicted), pytest.approx(observed)
        )
    assert bins[3] == ReliabilityBin(0.3, 0.4, 0, None, None)
    # (1 · 0.05 + 2 · 0.365 + 1 · 0.5 + 2 · 0.025) / 6
    assert expected_calibration_error(bins) == pytest.approx(1.33 / 6)


def test_errors_of_one_bin_cancel_and_errors_of_two_do_not():
    predicted, observed = [0.1, 0.2, 0.8, 0.9], [1, 0, 1, 0]
    assert expected_calibration_error(reliability_bins(predicted, observed, n_bins=1)) == pytest.approx(0)
    assert expected_calibration_error(reliability_bins(predicted, observed, n_bins=2)) == pytest.approx(0.35)


def test_honest_predictions_have_no_error_and_squared_ones_have_theirs():
    rng = np.random.default_rng(0)
    chance = rng.random(200_000)
    outcome = rng.random(len(chance)) < chance
    assert expected_calibration_error(reliability_bins(chance, outcome)) < 0.005
    # The mean of p − p² over [0, 1] is 1/6.
    squared = expected_calibration_error(reliability_bins(chance**2, outcome))
    assert squared == pytest.approx(1 / 6, abs=0.01)
