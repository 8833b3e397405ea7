"""The maths against numbers recorded from the original's own functions, float32, one process.

``references/ppo_math.npz`` holds 16 responses of 24 columns twice: ``full`` without padding, ``padded`` with. Here every
column counts, as in the original and with ``--numerics published``: all recorded numbers must come out of both.
``test_padded_numbers.py`` is about the default, where padding does not count.
"""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.functional.advantages import generalized_advantages
from llava_rlhf.functional.log_probs import head_log_probs
from llava_rlhf.functional.losses import policy_loss, value_loss
from llava_rlhf.functional.masked import masked_sum, moments
from llava_rlhf.functional.rewards import apply_stop_penalty
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


@pytest.fixture(scope="module")
def recorded():
    return recorded_maths()


@pytest.fixture(scope="module", params=["full", "padded"])
def data(request):
    return recorded_maths(f"{request.param}/")


def everything(x):
    return torch.ones(x.shape, dtype=torch.bool)


def test_the_two_cases_are_what_they_are_called(recorded):
    assert recorded["full/in/keep"].all()
    assert (
        recorded["padded/in/keep"].sum(dim=1).unique().numel() > 10 and not recorded["padded/in/keep"].all()
    )


@pytest.mark.parametrize(("length_score", "correct_score", "bias"), SETTINGS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_reward_shaping(data, estimator, length_score, correct_score, bias):
    settings = (estimator, length_score, correct_score, bias)
    _, kl, non_score, rewards = shaped(data, everything(data["in/logprobs"]), *settings)
    stem = shape_name(*settings)
    close(kl, data[stem + "kl"])
    close(non_score, data[stem + "non_score_rewards"])
    close(rewards, data[stem + "shaped_rewards"])


@pytest.mark.parametrize("relative", [True, False])
def test_stop_penalty(recorded, relative):
    stopped = (recorded["post_reward/in/responses"] == 2).any(dim=1)
    assert 0 < int(stopped.sum()) < len(stopped)
    scores = apply_stop_penalty(recorded["post_reward/in/rewards"], stopped, -8.0, relative)
    assert torch.equal(scores, recorded[f"post_reward/penalizeTrue_relative{relative}"])


@pytest.mark.parametrize("after", [None, 0, 2, 4])
def test_stop_penalty_of_early_stops(recorded, after):
    """The original could ask for a stop behind a position: the penalty is ours, that condition is not."""
    responses = recorded["post_reward/in/responses"]
    stops = torch.isin(responses, torch.tensor([2, 29973]))
    if after is not None:
        stops = stops & (torch.arange(responses.shape[1]) > after)
    scores = apply_stop_penalty(recorded["post_reward/in/rewards"], stops.any(dim=1), -8.0, relative=False)
    assert torch.equal(scores, recorded[f"post_reward/truncate_ids_2_29973_after{after}"])


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("mode", ["full_batch", "per_gpu", "none"])
def test_whitening(recorded, mode, shift):
    """Ours is `full_batch`: one mean and one deviation over all processes.

    `per_gpu` took those of a process (in one process the same numbers), which would make results depend on the number
    of processes; `none` took those of each row, which hides whether a response is better than the others. Both are
    only other moments for the same function.
    """
    x = recorded["whiten/in/x16"]
    ours = whitened(x, everything(x), shift, rows_alone=mode == "none")
    close(ours, recorded[f"whiten/x16_{mode}_shift{shift}"])


@pytest.mark.parametrize("shift", [True, False])
def test_whitening_of_few_rows(recorded, shift):
    """The original refused to whiten fewer than 8 rows together; here any number of tokens will do."""
    x = recorded["whiten/in/x7"]
    close(whitened(x, everything(x), shift, rows_alone=True), recorded[f"whiten/x7_none_shift{shift}"])
    exact = (x.double() - x.double().mean()) / x.double().std(correction=0)
    close(whitened(x, everything(x), shift), (exact if shift else exact + x.double().mean()).float())


@pytest.mark.parametrize(("gamma", "lam"), DISCOUNTS)
@pytest.mark.parametrize("whiten_rewards", [True, False])
@pytest.mark.parametrize("mode", ["full_batch", "per_gpu", "none"])
def test_advantages_and_returns(data, mode, whiten_rewards, gamma, lam):
    rewards, values, alone = data["in/shaped_rewards_for_gae"], data["in/values"], mode == "none"
    mask = everything(rewards)
    rewards = whitened(rewards, mask, False, alone) if whiten_rewards else 10.0 * rewards
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    stem = f"gae/whiten{whiten_rewards}_{mode}_g{gamma}_l{lam}/"
    # Recursions of 24 additions in float32, started from whitened rewards that differ in their last bit.
    close(returns, data[stem + "returns"], atol=5e-6)
    # Within a row, advantages near 100 differ by little; there float32 has steps of 8e-6.
    advantages = whitened(advantages, mask, True, alone)
    close(advantages, data[stem + "advantages"], atol=1e-5 if alone else 2e-6)


@pytest.mark.parametrize("cliprange", [0.05, 0.2, 0.4])
def test_policy_loss(data, cliprange):
    log_probs = data["in/new_logprob"].clone().requires_grad_()
    mask = everything(log_probs)
    loss = policy_loss(log_probs, data["in/logprobs"], data[ADVANTAGES], mask, cliprange)
    stem, mean = f"policy_loss/clip{cliprange}/", loss.sum / loss.count
    close(mean, data[stem + "loss"])
    close(mean, data[stem + "stat_loss.policy"])
    close(torch.autograd.grad(mean, log_probs)[0], data[stem + "grad_new_logprob"])
    close(loss.stats["policy/approxkl"] / loss.count, data[stem + "stat_policy.approxkl"])
    close(loss.stats["policy/clipfrac"] / loss.count, data[stem + "stat_policy.clipfrac"])
    close(masked_sum(data["in/entropies"], mask) / loss.count, data[stem + "stat_policy.entropy"])
    returns = moments(data[RETURNS], mask)
    close(returns.mean.float(), data[stem + "stat_returns.mean"])
    close(returns.var.float(), data[stem + "stat_returns.var"])


@pytest.mark.parametrize("cliprange_value", [0.05, 0.2, 1.0])
def test_value_loss(data, cliprange_value):
    values = data["in/vpred"].clone().requires_grad_()
    old_values, mask = data["in/values"], everything(values)
    loss = value_loss(values, old_values, data[RETURNS], mask, cliprange_value)
    stem, mean = f"value_loss/clip{cliprange_value}/", loss.sum / loss.count
    close(mean, data[stem + "stat_loss.value"])
    close(0.1 * mean, data[stem + "loss"])
    close(torch.autograd.grad(0.1 * mean, values)[0], data[stem + "grad_vpred"])
    for name in ("vpred", "error", "clipfrac"):
        close(loss.stats[f"val/{name}"] / loss.count, data[f"{stem}stat_val.{name}"])
    close(moments(old_values, mask).mean.float(), data[stem + "stat_val.mean"])
    close(moments(old_values, mask).var.float(), data[stem + "stat_val.var"])


def test_log_probs(recorded):
    labels, theirs = recorded["logprobs/labels"], recorded["logprobs/out_ignore0"]
    logits = recorded["logprobs/logits"].flatten(0, 1)
    ours, _ = head_log_probs(logits, labels.flatten(), torch.clone, 1.0, 5, with_entropy=False)
    ours = ours.view_as(labels)
    close(ours[labels != 0], theirs[labels != 0])
    # The original took id 0 for padding wherever it stood and zeroed it; here padding is known by position.
    assert (labels == 0).any() and not theirs[labels == 0].any() and (ours[labels == 0] < -0.1).all()
