"""The maths against numbers recorded from the original code, on responses without padding (where both must agree).

``references/ppo_math_full.npz`` holds the inputs and outputs of the original's own functions, float32, one process. It
also holds one padded case, for the only number that the original's treatment of padding leaves right.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_rlhf.functional.advantages import generalized_advantages
from llava_rlhf.functional.kl import KLEstimator, kl_estimate
from llava_rlhf.functional.log_probs import token_log_probs
from llava_rlhf.functional.losses import policy_loss, value_loss
from llava_rlhf.functional.masked import moments, whiten
from llava_rlhf.functional.rewards import apply_stop_penalty, token_rewards

ESTIMATORS = {"k1": KLEstimator.K1_CLAMPED, "k3": KLEstimator.K3}
SETTINGS = [(0.0, 0.0, 0.0), (-10.0, 2.0, 0.7)]  # length score, correctness score, bias
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parents[1] / "references" / "ppo_math_full.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if file[name].dtype.kind != "U"}


def everything(x):
    return torch.ones(x.shape, dtype=torch.bool)


@pytest.mark.parametrize(("length_score", "correct_score", "bias"), SETTINGS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_reward_shaping(recorded, name, length_score, correct_score, bias):
    case = f"full/shape_reward/{name}_len{length_score}_cor{correct_score}_bias{bias}/"
    kl = kl_estimate(recorded["full/in/logprobs"], recorded["full/in/ref_logprobs"], ESTIMATORS[name])
    close(kl, recorded[case + "kl"])
    scores = (
        recorded["full/in/rewards"]
        + length_score * recorded["full/in/length_bonus"]
        + correct_score * recorded["full/in/correct_bonus"]
        + bias
    )
    rewards = token_rewards(scores, kl, everything(kl), 0.1)
    close(rewards, recorded[case + "shaped_rewards"])
    close(token_rewards(0 * scores, kl, everything(kl), 0.1), recorded[case + "non_score_rewards"])


@pytest.mark.parametrize(("stem", "relative"), [("relativeTrue", True), ("relativeFalse", False)])
def test_stop_penalty(recorded, stem, relative):
    stopped = recorded["post_reward/has_stop_token"]
    scores = apply_stop_penalty(recorded["post_reward/in/rewards"], stopped, -8.0, relative)
    assert torch.equal(scores, recorded["post_reward/penalizeTrue_" + stem])
    assert 0 < int(stopped.sum()) < len(stopped)


@pytest.mark.parametrize("shift", [True, False])
def test_whitening(recorded, shift):
    x = recorded["whiten/in/x16"]
    close(
        whiten(x, everything(x), moments(x, everything(x)), shift),
        recorded[f"whiten/x16_full_batch_shift{shift}"],
    )


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95)])
@pytest.mark.parametrize("whiten_rewards", [True, False])
def test_advantages_and_returns(recorded, whiten_rewards, gamma, lam):
    rewards, values = recorded["full/in/shaped_rewards_for_gae"], recorded["full/in/values"]
    mask = everything(rewards)
    rewards = whiten(rewards, mask, moments(rewards, mask), False) if whiten_rewards else 10.0 * rewards
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    case = f"full/gae/whiten{whiten_rewards}_full_batch_g{gamma}_l{lam}/"
    # Recursions of 24 additions in float32, started from whitened rewards that differ in their last bit.
    close(returns, recorded[case + "returns"], atol=5e-6)
    whitened = whiten(advantages, mask, moments(advantages, mask), shift_mean=True)
    close(whitened, recorded[case + "advantages"], atol=2e-6)


@pytest.mark.parametrize("cliprange", [0.05, 0.2, 0.4])
def test_policy_loss(recorded, cliprange):
    log_probs = recorded["full/in/new_logprob"].clone().requires_grad_()
    advantages = recorded["full/gae/whitenFalse_full_batch_g1.0_l1.0/advantages"]
    loss = policy_loss(log_probs, recorded["full/in/logprobs"], advantages, everything(advantages), cliprange)
    case = f"full/policy_loss/clip{cliprange}/"
    mean = loss.sum / loss.count
    close(mean, recorded[case + "loss"])
    close(torch.autograd.grad(mean, log_probs)[0], recorded[case + "grad_new_logprob"])
    close(loss.stats["policy/approxkl"] / loss.count, recorded[case + "stat_policy.approxkl"])
    close(loss.stats["policy/clipfrac"] / loss.count, recorded[case + "stat_policy.clipfrac"])


@pytest.mark.parametrize("cliprange_value", [0.05, 0.2, 1.0])
def test_value_loss(recorded, cliprange_value):
    values = recorded["full/in/vpred"].clone().requires_grad_()
    returns = recorded["full/gae/whitenFalse_full_batch_g1.0_l1.0/returns"]
    old_values, mask = recorded["full/in/values"], everything(returns)
    loss = value_loss(values, old_values, returns, mask, cliprange_value)
    case = f"full/value_loss/clip{cliprange_value}/"
    mean = loss.sum / loss.count
    close(mean, recorded[case + "stat_loss.value"])
    close(torch.autograd.grad(0.1 * mean, values)[0], recorded[case + "grad_vpred"])
    for name in ("vpred", "error", "clipfrac"):
        close(loss.stats[f"val/{name}"] / loss.count, recorded[f"{case}stat_val.{name}"])
    close(moments(old_values, mask).mean.float(), recorded[case + "stat_val.mean"])


def test_statistics_of_returns(recorded):
    returns = recorded["full/gae/whitenFalse_full_batch_g1.0_l1.0/returns"]
    case = "full/policy_loss/clip0.2/"
    statistics = moments(returns, everything(returns))
    close(statistics.mean.float(), recorded[case + "stat_returns.mean"])
    close(statistics.var.float(), recorded[case + "stat_returns.var"])


def test_log_probs(recorded):
    labels = recorded["logprobs/labels"]
    log_probs = token_log_probs(recorded["logprobs/logits"], labels)
    # The original took id 0 for padding and zeroed it; here padding is known by position.
    close(log_probs[labels != 0], recorded["logprobs/out_ignore0"][labels != 0])


def test_padding_telescopes_away_at_gamma_and_lambda_one(recorded):
    data = {name.removeprefix("padded/"): x for name, x in recorded.items() if name.startswith("padded/")}
    mask = data["in/keep"]
    kl = kl_estimate(data["in/logprobs"], data["in/ref_logprobs"], KLEstimator.K1_CLAMPED)
    scores = data["in/rewards"] - 10.0 * data["in/length_bonus"] + 2.0 * data["in/correct_bonus"]
    rewards = 10.0 * token_rewards(scores, kl, mask, 0.1)
    _, returns = generalized_advantages(rewards, data["in/values"], mask, 1.0, 1.0)
    # The original adds and takes off the values of up to 23 padding tokens, in float32, at returns of up to 96.
    close(returns[mask], data["gae/whitenFalse_full_batch_g1.0_l1.0/returns"][mask], atol=5e-5)
    assert 0 < int(mask.sum()) < mask.numel()
