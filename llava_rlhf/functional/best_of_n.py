"""What choosing the best of n answers is worth, from N answers to one prompt."""

from __future__ import annotations

import torch
from torch import Tensor


def expected_of_best(scores: Tensor, values: Tensor, n: int) -> float:
    """Mean, over all ways to take `n` of the N answers, of the value of the one that scores highest: an unbiased estimate.

    In rising order of the scores, answer number i (from 1) is the highest of C(i−1, n−1) of the C(N, n) choices. Among equal
    scores each is taken as often as the others.

    Args:
        scores, values: float[N] of the answers; equal for the expected highest score.
        n: 1 to N.
    """
    assert 1 <= n <= len(scores), (n, len(scores))
    _, place, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, place, values.double())
    ordered = (sums / counts).repeat_interleave(counts)
    rank = torch.arange(n, len(ordered) + 1, dtype=torch.float64)
    total = torch.tensor([len(ordered)], dtype=torch.float64)
    # C(i-1, n-1) / C(N, n), by logarithms: the numbers themselves are too large for floats from N ≈ 1000 on.
    log_share = _log_choices(rank - 1, n - 1) - _log_choices(total, n)
    return float(log_share.exp() @ ordered[n - 1 :])


def _log_choices(of: Tensor, taken: int) -> Tensor:
    """log C(of, taken), float64[...]."""
    few = torch.tensor(float(taken), dtype=torch.float64)
    return torch.lgamma(of + 1) - torch.lgamma(few + 1) - torch.lgamma(of - few + 1)
