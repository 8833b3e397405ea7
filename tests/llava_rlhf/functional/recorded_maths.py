"""What the original's functions were given and gave back, and the steps that several tests of it take."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.functional.kl import kl_estimate
from llava_rlhf.functional.masked import moments, whiten
from llava_rlhf.functional.rewards import token_rewards

ESTIMATORS = {"k1": KLEstimator.K1_CLAMPED, "k3": KLEstimator.K3}
SETTINGS = list(product((0.0, -10.0), (0.0, 2.0), (0.0, 0.7)))  # length score, correctness score, bias
DISCOUNTS = [(1.0, 1.0), (0.99, 0.95)]  # γ, λ
RETURNS = "gae/whitenFalse_full_batch_g1.0_l1.0/returns"
ADVANTAGES = "gae/whitenFalse_full_batch_g1.0_l1.0/advantages"
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


def recorded_maths(prefix: str = "") -> dict[str, Tensor]:
    """The recorded arrays whose names start with `prefix`, without it."""
    with np.load(Path(__file__).parents[2] / "references" / "ppo_math.npz") as file:
        names = [name for name in file.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in names}


def shape_name(estimator: str, length_score: float, correct_score: float, bias: float) -> str:
    """Under which name the rewards of these settings were recorded."""
    return f"shape_reward/{estimator}_len{length_score}_cor{correct_score}_bias{bias}/"


def shaped(
    data: dict[str, Tensor],
    mask: Tensor,
    estimator: str,
    length_score: float,
    correct_score: float,
    bias: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores float[B]; KL, rewards without and with the score float[B, T], by the shipped functions."""
    kl = kl_estimate(data["in/logprobs"], data["in/ref_logprobs"], ESTIMATORS[estimator])
    scores = (
        data["in/rewards"]
        + length_score * data["in/length_bonus"]
        + correct_score * data["in/correct_bonus"]
        + bias
    )
    return scores, kl, token_rewards(0 * scores, kl, mask, 0.1), token_rewards(scores, kl, mask, 0.1)


def whitened(x: Tensor, mask: Tensor, shift_mean: bool, rows_alone: bool = False) -> Tensor:
    """The shipped whitening, by the moments of all rows or by each row's own."""
    size = 1 if rows_alone else len(x)
    parts = zip(x.split(size), mask.split(size), strict=True)
    return torch.cat([whiten(rows, counted, moments(rows, counted), shift_mean) for rows, counted in parts])
