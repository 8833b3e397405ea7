"""Means, and how an engine differs from the policy, written out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from tests.support.literal_losses import LiteralPolicyLoss


def mean_of(numbers: list[float]) -> float:
    """Of at least one number."""
    return sum(numbers) / len(numbers)


def std_of(numbers: list[float]) -> float:
    """Of the population."""
    middle = mean_of(numbers)
    return math.sqrt(mean_of([(number - middle) ** 2 for number in numbers]))


def engine_differences(rows: Sequence[tuple[Tensor, Tensor]], terms: LiteralPolicyLoss) -> dict[str, float]:
    """Metrics of responses whose tokens have these log-probabilities under the policy and under the engine."""
    pairs = [list(zip(*(side.tolist() for side in row), strict=True)) for row in rows]
    tokens = [mine - its for row in pairs for mine, its in row]
    sizes = sorted(abs(d) for d in tokens)
    metrics = {
        "engine/log_ratio": mean_of(tokens),
        "engine/kl": mean_of([math.exp(d) - 1 - d for d in tokens]),
        "engine/difference_max": sizes[-1],
        "engine/difference_p99": sizes[math.ceil(0.99 * len(sizes)) - 1],
        "engine/tokens_off": mean_of([float(not 0.9 <= math.exp(d) <= 1.1) for d in tokens]),
        "engine/rows_off": mean_of(
            [float(not 0.9 <= math.exp(sum(mine - its for mine, its in row)) <= 1.1) for row in pairs]
        ),
    }
    if terms.loss.importance_correction == "none":
        return metrics
    weights = [terms.weight(mine, its) for row in pairs for mine, its in row]
    cap = terms.loss.importance_cap
    return metrics | {
        "engine/weight_mean": mean_of(weights),
        "engine/weight_capped": mean_of([float(weight == cap) for weight in weights]),
    }
