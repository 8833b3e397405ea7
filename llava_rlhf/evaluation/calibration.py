"""Is a predicted probability of 0.8 right in 8 of 10 cases? Reliability bins and their expected error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

N_BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Cases whose predicted probability lies in [low, high) (the last bin has 1 in it).

    Attributes:
        low, high: limits of the bin.
        count: cases in it.
        predicted: mean predicted probability, None in an empty bin.
        observed: share of the cases that came true, None in an empty bin.
    """

    low: float
    high: float
    count: int
    predicted: float | None
    observed: float | None


def reliability_bins(
    probabilities: ArrayLike, outcomes: ArrayLike, n_bins: int = N_BINS
) -> list[ReliabilityBin]:
    """Bins of equal width over [0, 1].

    Args:
        probabilities: float[N] predicted.
        outcomes: [N], 1 where the predicted event happened, else 0.
        n_bins: how many.
    """
    predicted, observed = np.asarray(probabilities, float), np.asarray(outcomes, float)
    assert predicted.shape == observed.shape, (predicted.shape, observed.shape)
    places = np.minimum((predicted * n_bins).astype(int), n_bins - 1)
    bins = []
    for place in range(n_bins):
        inside = places == place
        means = (
            (float(predicted[inside].mean()), float(observed[inside].mean())) if inside.any() else (None,) * 2
        )
        bins.append(ReliabilityBin(place / n_bins, (place + 1) / n_bins, int(inside.sum()), *means))
    return bins


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean of |observed − predicted| over all cases, bin by bin (Guo et al., arXiv 1706.04599, equation 3)."""
    filled = [(item.count, abs(item.observed - item.predicted)) for item in bins if item.count]
    return sum(count * gap for count, gap in filled) / sum(count for count, _ in filled)


def pair_outcome(chosen_margin: float) -> float:
    """1 where the preferred response scores higher, 0 where the other does, ½ for a tie."""
    return (np.sign(chosen_margin) + 1) / 2
