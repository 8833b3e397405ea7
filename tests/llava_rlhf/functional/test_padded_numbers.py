"""The default maths, where only real tokens count, on the padded responses recorded from the original.

Some recorded numbers stay the same. Each of the others is computed again by a loop over the real tokens in Python's
floats, and is far from what the original, which counted padding, made of the same input.
"""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.functional.advantages import generalized_advantages
from llava_rlhf.functional.losses import policy_loss, value_loss
from llava_rlhf.functional.masked import masked_sum, moments
from tests.llava_rlhf.functional.recorded_maths import (
    ADVANTAGES,
    DISCOUNTS,
    ESTIMATORS,
    RETURNS,
    SETTINGS,
    close,
    recorded_maths,
    shape_name,
    shaped,
    whitened,
)

ROWS, COLUMNS, TOKENS = 16, 24, 194


@pytest.fixture(scope="module")
def data():
    return recorded_maths("padded/")


@pytest.fixture(scope="module")
def real(data):
    """bool[16, 24], True at real tokens: responses of 1 to 24 tokens."""
    return data["in/keep"]


def entries(x, real):
    """{(row, column): number} of the real tokens, columns ascending."""
    return {(row, column): float(x[row, column]) for row, column in real.nonzero().tolist()}


def table(numbers):
    """float32[16, 24] of {(row, column): number}, 0 elsewhere."""
    out = torch.zeros(ROWS, COLUMNS)
    for place, number in numbers.items():
        out[place] = number
    return out


def average(numbers):
    return sum(numbers) / len(numbers)


def variance(numbers):
    return average([(number - average(numbers)) ** 2 for number in numbers])


def standardised(numbers, shift_mean):
    middle, deviation = average(numbers.values()), math.sqrt(variance(numbers.values()))
    back = 0.0 if shift_mean else middle
    return {place: (number - middle) / (deviation + 1e-8) + back for place, number in numbers.items()}


def apart(ours, recorded):
    return float((ours - recorded).detach().abs().max())


@pytest.mark.parametrize(("length_score", "correct_score", "bias"), SETTINGS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_real_tokens_keep_their_kl_and_the_last_one_gets_the_score(
    data, real, estimator, length_score, correct_score, bias
):
    settings = (estimator, length_score, correct_score, bias)
    scores, kl, non_score, rewards = shaped(data, real, *settings)
    stem = shape_name(*settings)
    close(kl[real], data[stem + "kl"][real])
    close(non_score, data[stem + "non_score_rewards"])
    expected = entries(data[stem + "non_score_rewards"], real)
    last = {row: (row, column) for row, column in expected}  # of each row the last one stays
    for row, place in last.items():
        expected[place] += float(scores[row])
    close(rewards, table(expected))
    # All of a row's reward is there, in another place.
    close(rewards.sum(dim=1), data[stem + "shaped_rewards"].sum(dim=1))
    assert apart(rewards, data[stem + "shaped_rewards"]) > 1.0


@pytest.mark.parametrize(("gamma", "lam"), DISCOUNTS)
@pytest.mark.parametrize("whiten_rewards", [True, False])
def test_advantages_and_returns(data, real, whiten_rewards, gamma, lam):
    _, _, _, rewards = shaped(data, real, "k1", -10.0, 2.0, 0.0)
    values, plain = data["in/values"], entries(rewards, real)
    scaled = standardised(plain, False) if whiten_rewards else {at: 10 * x for at, x in plain.items()}
    expected, expected_returns = {}, {}
    for row, length in enumerate(real.sum(dim=1).tolist()):
        value = [*values[row, :length].tolist(), 0.0]
        deltas = [scaled[row, t] + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):  # A_t = Σ_k (γλ)^k δ_(t+k)
            expected[row, t] = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
            expected_returns[row, t] = expected[row, t] + value[t]
    rewards = whitened(rewards, real, False) if whiten_rewards else 10.0 * rewards
    advantages, returns = generalized_advantages(rewards, values, real, gamma, lam)
    advantages = whitened(advantages, real, True)
    close(returns, table(expected_returns), atol=1e-5)
    close(advantages, table(standardised(expected, True)), atol=2e-6)
    stem = f"gae/whiten{whiten_rewards}_full_batch_g{gamma}_l{lam}/"
    if gamma == lam == 1.0 and not whiten_rewards:
        # What happens on padding telescopes away. The original adds up to 23 values there and takes them off again, in
        # float32, at returns of up to 96.
        close(returns[real], data[stem + "returns"][real], atol=5e-5)
    else:
        assert apart(returns[real], data[stem + "returns"][real]) > 1.0
    assert apart(advantages[real], data[stem + "advantages"][real]) > 1.0


@pytest.mark.parametrize("cliprange", [0.05, 0.2, 0.4])
def test_policy_loss(data, real, cliprange):
    log_probs = data["in/new_logprob"].clone().requires_grad_()
    loss = policy_loss(log_probs, data["in/logprobs"], data[ADVANTAGES], real, cliprange)
    new, old = entries(data["in/new_logprob"], real), entries(data["in/logprobs"], real)
    losses, gradient, sums = [], {}, {"policy/approxkl": 0.0, "policy/clipfrac": 0.0}
    for at, advantage in entries(data[ADVANTAGES], real).items():
        ratio = math.exp(new[at] - old[at])
        free, clipped = -advantage * ratio, -advantage * min(max(ratio, 1 - cliprange), 1 + cliprange)
        losses.append(max(free, clipped))
        gradient[at] = 0.0 if clipped > free else free / TOKENS
        sums["policy/approxkl"] += (new[at] - old[at]) ** 2 / 2
        sums["policy/clipfrac"] += clipped > free
    stem, mean = f"policy_loss/clip{cliprange}/", loss.sum / loss.count
    assert loss.count == len(losses) == TOKENS
    assert mean.item() == pytest.approx(average(losses), abs=1e-6)
    close(torch.autograd.grad(mean, log_probs)[0], table(gradient))
    for name, total in sums.items():
        assert float(loss.stats[name]) == pytest.approx(total, rel=1e-5), name
        # On padding the ratio is always 1: it adds nothing, and was counted.
        close(loss.stats[name], ROWS * COLUMNS * data[f"{stem}stat_{name.replace('/', '.')}"])
    assert apart(mean, data[stem + "loss"]) > 0.5


@pytest.mark.parametrize("cliprange_value", [0.05, 0.2, 1.0])
def test_value_loss(data, real, cliprange_value):
    values = data["in/vpred"].clone().requires_grad_()
    loss = value_loss(values, data["in/values"], data[RETURNS], real, cliprange_value)
    new, old = entries(data["in/vpred"], real), entries(data["in/values"], real)
    losses, errors, clips, gradient = [], [], [], {}
    for at, target in entries(data[RETURNS], real).items():
        clipped = min(max(new[at], old[at] - cliprange_value), old[at] + cliprange_value)
        errors.append((new[at] - target) ** 2)
        clips.append((clipped - target) ** 2 > errors[-1])
        losses.append(max(errors[-1], (clipped - target) ** 2) / 2)
        gradient[at] = 0.0 if clips[-1] else 0.1 * (new[at] - target) / TOKENS
    stem, mean = f"value_loss/clip{cliprange_value}/", loss.sum / loss.count
    assert loss.count == len(losses) == TOKENS
    assert mean.item() == pytest.approx(average(losses), rel=1e-5)
    close(torch.autograd.grad(0.1 * mean, values)[0], table(gradient))
    for name, numbers in (("vpred", new.values()), ("error", errors), ("clipfrac", clips)):
        ours = float(loss.stats[f"val/{name}"] / loss.count)
        assert ours == pytest.approx(average(numbers), rel=1e-5), name
    assert apart(mean, data[stem + "stat_loss.value"]) > 500


@pytest.mark.parametrize(
    ("name", "stem", "differences"),
    [
        (RETURNS, "policy_loss/clip0.2/stat_returns.", (10, 100)),
        ("in/values", "value_loss/clip0.2/stat_val.", (0.01, 0.01)),
    ],
)
def test_moments(data, real, name, stem, differences):
    found, numbers = moments(data[name], real), entries(data[name], real).values()
    for ours, expected, statistic, difference in zip(
        (found.mean, found.var),
        (average(numbers), variance(numbers)),
        ("mean", "var"),
        differences,
        strict=True,
    ):
        assert float(ours) == pytest.approx(expected, rel=1e-9)
        assert apart(ours, data[stem + statistic]) > difference


def test_entropies(data, real):
    entropy = masked_sum(data["in/entropies"], real) / TOKENS
    assert float(entropy) == pytest.approx(average(entries(data["in/entropies"], real).values()), rel=1e-6)
    assert apart(entropy, data["policy_loss/clip0.2/stat_policy.entropy"]) > 0.005
