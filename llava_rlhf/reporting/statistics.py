"""Intervals and tests for ratios of sums over items: the bootstrap and paired permutations of SciPy.

Shapes: C clusters (items that belong together); `numerator` and `denominator` are float[C], summed within clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES, SEED = 5000, 0  # of a report, and the defaults of `evaluate compare`
BATCH_NUMBERS = 4_000_000  # of an array that resampling holds at once

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """A metric's values by cluster: numerators and denominators, float[C] each."""

    numerator: Array
    denominator: Array

    @property
    def ratio(self) -> float | None:
        """The metric; None where there is nothing to divide by."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total else None

    def at(self, index: NDArray[np.int64]) -> Array:
        """Ratios of resamples int[..., K] of the clusters; NaN where there is nothing to divide by."""
        total = self.denominator[index].sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total == 0, np.nan, self.numerator[index].sum(axis=-1) / total)


@dataclass(frozen=True)
class Difference:
    """A metric of one run less that of the first run.

    Attributes:
        value: the difference, None where one of the two is none.
        interval: 95 %, None where there are too few clusters to resample.
        p_value: two-sided, of the hypothesis that the runs are exchangeable in every cluster.
    """

    value: float | None
    interval: tuple[float, float] | None
    p_value: float | None


def interval(sums: Sums, resamples: int, seed: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval over clusters; None below two clusters or without a ratio.

    Resamples with nothing to divide by are left out.
    """
    return _bootstrap(sums.at, len(sums.numerator), resamples, seed) if sums.ratio is not None else None


def paired_difference(first: Sums, other: Sums, resamples: int, seed: int) -> Difference:
    """Compare two runs on the same clusters, in the same order.

    The interval resamples clusters, both runs together. The test swaps the runs within clusters at random (all 2^C swaps
    where they are no more than `resamples`); for a share of right answers it is what McNemar's exact test approximates.
    """
    if first.ratio is None or other.ratio is None:
        return Difference(None, None, None)
    count = len(first.numerator)
    found = _bootstrap(lambda index: other.at(index) - first.at(index), count, resamples, seed)
    if found is None:
        return Difference(other.ratio - first.ratio, None, None)
    both = Sums(
        np.concatenate([first.numerator, other.numerator]),
        np.concatenate([first.denominator, other.denominator]),
    )

    def statistic(x: Array, y: Array, axis: int) -> Array:
        assert axis in (-1, x.ndim - 1)
        difference = both.at(y.astype(int)) - both.at(x.astype(int))
        # A swap that leaves one side nothing to divide by can't speak against the hypothesis. Rounded, because sums in
        # another order must stay ties.
        return np.where(np.isnan(difference), 0.0, difference.round(12))

    from scipy import stats  # slow to load

    places = np.arange(count)
    test = stats.permutation_test(
        (places, places + count),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(2 * count),
        rng=np.random.default_rng(seed),
    )
    return Difference(other.ratio - first.ratio, found, float(test.pvalue))


def _bootstrap(
    statistic: Callable[[NDArray[np.int64]], Array], count: int, resamples: int, seed: int
) -> tuple[float, float] | None:
    if count < 2:
        return None
    from scipy import stats  # slow to load

    with warnings.catch_warnings():
        # SciPy's own interval is none where one resample has nothing to divide by; ours leaves such resamples out.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (np.arange(count),),
            lambda index, axis: statistic(index),
            n_resamples=resamples,
            batch=_batch(count),
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    found = result.bootstrap_distribution
    found = found[~np.isnan(found)]
    if not found.size:
        return None
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _batch(count: int) -> int:
    return max(1, BATCH_NUMBERS // count)
