"""Numbers of scored pairs and scored answers, over all and for each answer type, and their tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_rlhf.evaluation.calibration import expected_calibration_error, pair_outcome, reliability_bins
from llava_rlhf.functional.losses import pairwise_reward_loss

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def pair_numbers(scores: Tensor, choice: Tensor) -> dict[str, Any]:
    """Numbers of preference pairs.

    Args:
        scores: float[N, 2] of responses 1 and 2; N ≥ 1.
        choice: [N], 1 where response 2 is preferred, 0 where response 1 is.

    Returns:
        `pairs`; `accuracy` (a tie counts half) and its `accuracy_standard_error` (None for one pair); `mean_margin`, chosen − rejected;
        `loss`, that of training over these pairs, the centring term included; `share_2_preferred`; `calibration_error`
        and `reliability`, both of sigmoid(score 2 − score 1) as the probability that response 2 is preferred.
    """
    scores = scores.double()
    difference = scores[:, 1] - scores[:, 0]
    margin = difference * (2 * choice - 1)
    accuracy, error = _mean_and_error(pair_outcome(margin.numpy()))
    bins = reliability_bins(torch.sigmoid(difference), choice)
    return {
        "pairs": len(scores),
        "accuracy": accuracy,
        "accuracy_standard_error": error,
        "mean_margin": float(margin.mean()),
        "loss": float(pairwise_reward_loss(scores, choice)),
        "share_2_preferred": float(choice.double().mean()),
        "calibration_error": expected_calibration_error(bins),
        "reliability": [asdict(item) for item in bins],
    }


def answer_numbers(scores: Tensor) -> dict[str, Any]:
    """Numbers of scored answers: float[N], N ≥ 1.

    Returns:
        `answers`; `mean` and its `standard_error`; `std` (both None for one answer); `quantiles`, name → value.
    """
    values = scores.double().numpy()
    mean, error = _mean_and_error(values)
    return {
        "answers": len(values),
        "mean": mean,
        "standard_error": error,
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "quantiles": {str(q): float(np.quantile(values, q)) for q in QUANTILES},
    }


def by_answer_type(
    numbers: Callable[..., dict[str, Any]], answer_types: Sequence[str], *columns: Tensor
) -> dict[str, dict[str, Any]]:
    """`numbers` of the rows of each answer type; `columns` are its arguments, [N, …] each."""
    kinds = np.asarray(answer_types)
    rows = {str(kind): torch.from_numpy(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)}
    return {kind: numbers(*(column[index] for column in columns)) for kind, index in rows.items()}


def format_pairs(overall: Mapping[str, Any], by_type: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for all pairs and each answer type, then the reliability bins of all pairs."""
    lines = [f"{'':<14}{'pairs':>8}{'accuracy':>16}{'margin':>10}{'loss':>9}{'calibration error':>20}"]
    for name, entry in {"all": overall, **by_type}.items():
        accuracy = _with_error(entry["accuracy"], entry["accuracy_standard_error"])
        lines.append(
            f"{name:<14}{entry['pairs']:>8}{accuracy:>16}{entry['mean_margin']:>10.3f}{entry['loss']:>9.4f}"
            f"{entry['calibration_error']:>20.3f}"
        )
    lines += [
        "",
        "probability that response 2 is preferred: predicted by sigmoid(score 2 - score 1), and observed",
    ]
    lines.append(f"{'':<14}{'pairs':>8}{'predicted':>12}{'observed':>12}")
    for item in overall["reliability"]:
        means = [
            "-" if item[name] is None else format(item[name], ".3f") for name in ("predicted", "observed")
        ]
        limits = f"{item['low']:.1f} to {item['high']:.1f}"
        lines.append(f"{limits:<14}{item['count']:>8}{means[0]:>12}{means[1]:>12}")
    return "\n".join(lines)


def format_answers(overall: Mapping[str, Any], by_type: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for all answers and each answer type: mean ± standard error, spread and quantiles of the score."""
    heads = [f"{100 * q:g} %" for q in QUANTILES]
    lines = [f"{'':<14}{'answers':>8}{'mean score':>18}{'std':>9}" + "".join(f"{head:>9}" for head in heads)]
    for name, entry in {"all": overall, **by_type}.items():
        std = "-" if entry["std"] is None else format(entry["std"], ".3f")
        quantiles = "".join(f"{value:>9.3f}" for value in entry["quantiles"].values())
        mean = _with_error(entry["mean"], entry["standard_error"])
        lines.append(f"{name:<14}{entry['answers']:>8}{mean:>18}{std:>9}{quantiles}")
    return "\n".join(lines)


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float | None]:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def _with_error(mean: float, error: float | None) -> str:
    return f"{mean:.3f}" + ("" if error is None else f" ± {error:.3f}")
