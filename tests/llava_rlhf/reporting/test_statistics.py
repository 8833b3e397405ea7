"""Intervals and tests against enumeration, other tests of SciPy, and what they promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from llava_rlhf.reporting.statistics import Sums, interval, paired_difference


def sums(numerator, denominator=None) -> Sums:
    top = np.asarray(numerator, float)
    return Sums(top, np.ones_like(top) if denominator is None else np.asarray(denominator, float))


def test_the_interval_is_that_of_all_resamples():
    data = sums([1, 4, 2, 0], [2, 4, 1, 1])
    ratios = [
        data.numerator[list(index)].sum() / data.denominator[list(index)].sum()
        for index in itertools.product(range(4), repeat=4)
    ]
    expected = np.quantile(ratios, [0.025, 0.975])
    assert interval(data, 20_000, 0) == pytest.approx(expected, abs=0.02)
    assert data.ratio == 7 / 8


def test_the_interval_covers_what_it_should():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = interval(sums(rng.random(60) < 0.6), 300, trial)
        hits += low <= 0.6 <= high
    assert 178 <= hits <= 199  # 95 % of 200 is 190; outside by chance with probability 0.001


def test_what_belongs_together_is_resampled_together():
    """Ten equal items an image say no more than one: the interval is wider by the root of ten."""
    values = (np.random.default_rng(0).random(100) < 0.5).astype(float)
    together = interval(sums(10 * values, np.full(100, 10)), 3000, 0)
    apart = interval(sums(np.repeat(values, 10)), 3000, 0)
    assert (together[1] - together[0]) / (apart[1] - apart[0]) == pytest.approx(10**0.5, rel=0.1)


def test_nothing_to_divide_by():
    assert sums([0, 0], [0, 0]).ratio is None and interval(sums([0, 0], [0, 0]), 100, 0) is None
    assert interval(sums([1]), 100, 0) is None
    low, high = interval(sums([1, 0, 0, 0], [1, 0, 0, 0]), 1000, 0)  # many resamples lack the one that counts
    assert (low, high) == (1, 1)
    found = paired_difference(sums([0, 0], [0, 0]), sums([1, 1]), 100, 0)
    assert (found.value, found.interval, found.p_value) == (None, None, None)


def test_the_paired_test_by_enumeration():
    first, other = sums([1, 0, 2, 5, 1, 3], [1, 2, 2, 5, 1, 4]), sums([1, 2, 2, 4, 3, 4], [2, 2, 3, 5, 4, 4])
    observed = other.ratio - first.ratio
    found = []
    for swaps in itertools.product([False, True], repeat=6):
        a = Sums(
            *(np.where(swaps, getattr(other, n), getattr(first, n)) for n in ("numerator", "denominator"))
        )
        b = Sums(
            *(np.where(swaps, getattr(first, n), getattr(other, n)) for n in ("numerator", "denominator"))
        )
        found.append(b.ratio - a.ratio)
    less = np.mean(np.array(found) <= observed + 1e-12)
    more = np.mean(np.array(found) >= observed - 1e-12)
    result = paired_difference(first, other, 5000, 0)
    assert result.value == pytest.approx(observed)
    assert result.p_value == pytest.approx(min(1, 2 * min(less, more)))


def test_for_right_and_wrong_it_is_mcnemars_exact_test():
    first = np.repeat([1, 1, 0, 0], [30, 4, 14, 12])
    other = np.repeat([1, 0, 1, 0], [30, 4, 14, 12])
    exact = stats.binomtest(4, 18).pvalue  # only the 18 that differ count
    result = paired_difference(sums(first), sums(other), 40_000, 0)
    assert result.value == pytest.approx(10 / 60)
    assert result.p_value == pytest.approx(exact, abs=0.004)


def test_equal_runs_do_not_differ():
    run = sums([0.1, 0.7, 0.3, 0.9, 0.2] * 5)
    found = paired_difference(run, run, 500, 0)
    assert (found.value, found.interval, found.p_value) == (0, (0, 0), 1)


def test_the_paired_interval_uses_the_pairs():
    """Two runs that differ by a constant: no doubt about the difference, much about each."""
    values = np.random.default_rng(1).normal(size=40)
    found = paired_difference(sums(values), sums(values + 0.1), 500, 0)
    assert found.interval == pytest.approx((0.1, 0.1))
    assert found.p_value < 0.01
    low, high = interval(sums(values), 500, 0)
    assert high - low > 0.3


def test_resampling_is_reproducible():
    run = sums(np.random.default_rng(2).normal(size=30))
    assert interval(run, 200, 5) == interval(run, 200, 5) != interval(run, 200, 6)
