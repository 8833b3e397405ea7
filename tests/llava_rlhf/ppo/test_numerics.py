"""`--numerics`: what it changes, by hand, and that it changes nothing else (whole recorded runs: tests/parity)."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.ppo.reward_shaping import shape_rewards
from tests.support.ppo_world import assemble, largest_difference, metrics_of, run_ppo, trained

PUBLISHED = {"numerics": "published"}
RESPONSES = torch.tensor([[7, 2, 0], [7, 8, 9]])
MASK = torch.tensor([[True, True, False], [True, True, True]])


@pytest.fixture
def command(ppo_on_one_base, tmp_path):
    return lambda name, **changes: ppo_on_one_base(tmp_path / name, **changes)


def test_corrected_keeps_what_was_sampled():
    responses, mask, counted = Numerics.CORRECTED.columns(RESPONSES, MASK, response_len=5, pad_id=0)
    assert torch.equal(responses, RESPONSES) and torch.equal(mask, MASK) and torch.equal(counted, MASK)


def test_published_counts_every_column_up_to_the_limit():
    responses, mask, counted = Numerics.PUBLISHED.columns(RESPONSES, MASK, response_len=5, pad_id=6)
    assert responses.tolist() == [[7, 2, 0, 6, 6], [7, 8, 9, 6, 6]]
    assert mask.tolist() == [[True, True, False, False, False], [True, True, True, False, False]]
    assert counted.shape == mask.shape and counted.all()


def test_where_nothing_is_padded_or_clipped_both_are_the_same_run(command, tmp_path):
    # One token a response: no row is shorter than another.
    settings = {"response_len": 1, "max_grad_norm": 1e9}
    run_ppo(command("corrected", **settings))
    run_ppo(command("published", **settings, **PUBLISHED))
    # To the last digits: attention with and without a mask sums in another order.
    for one, other in zip(
        metrics_of(tmp_path / "published"), metrics_of(tmp_path / "corrected"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert largest_difference(trained(tmp_path / "published"), trained(tmp_path / "corrected")) < 1e-5


def test_padding_that_counts_has_an_entropy_and_no_log_probability(command):
    parts = assemble(command("published", **PUBLISHED), spread=0.02)
    experience = parts.collect(list(range(8)))
    padding = ~experience.response_mask
    assert padding.any() and experience.counted.all() and experience.responses.shape[1] == 6
    assert not experience.log_probs[padding].any() and not experience.ref_log_probs[padding].any()
    assert (experience.entropies[padding] > 0).all() and (experience.values[padding] != 0).all()
    same = assemble(command("corrected"), spread=0.02).collect(list(range(8)))
    width, real = same.responses.shape[1], same.response_mask
    for name in ("log_probs", "ref_log_probs", "entropies", "ref_entropies", "values"):
        published = getattr(experience, name)[:, :width][real]
        assert torch.allclose(published, getattr(same, name)[real], atol=1e-5), name
    assert torch.equal(experience.lengths, same.lengths) and torch.allclose(
        experience.scores, same.scores, atol=1e-5
    )


def test_the_score_sits_in_the_last_column_that_counts(command):
    for name, changes in (("published", PUBLISHED), ("corrected", {})):
        parts = assemble(command(name, **changes, kl_coef=0.0), spread=0.02)
        experience = parts.collect(list(range(8)))
        shaped = shape_rewards(experience, 6, parts.trainer.reward_arguments, kl_coef=0.0)
        for row, length in enumerate(experience.lengths.tolist()):
            expected = [0.0] * experience.responses.shape[1]
            expected[5 if changes else length - 1] = float(shaped.score[row])
            assert shaped.rewards[row].tolist() == expected


def test_advantages_of_published_numerics_are_whitened_with_the_padding(command):
    parts = assemble(command("published", **PUBLISHED), spread=0.02)
    experience = parts.collect(list(range(8)))
    shaped = shape_rewards(experience, 6, parts.trainer.reward_arguments, kl_coef=0.1)
    targets, metrics = parts.trainer.target_maker.make(experience, shaped)
    rewards = (10 * shaped.rewards).tolist()
    values = experience.values.tolist()
    # γ = λ = 1: the return of a column is the sum of all later rewards, over padding too.
    returns = [[sum(row[t:]) for t in range(6)] for row in rewards]
    raw = [returns[row][t] - values[row][t] for row in range(8) for t in range(6)]
    mean = sum(raw) / 48
    std = math.sqrt(sum((number - mean) ** 2 for number in raw) / 48)
    expected = torch.tensor([(number - mean) / std for number in raw]).view(8, 6)
    assert torch.allclose(targets.advantages, expected, atol=1e-4)
    assert torch.allclose(targets.returns, torch.tensor(returns), rtol=1e-5, atol=1e-4)
    assert metrics["ppo/returns/mean"] == pytest.approx(sum(map(sum, returns)) / 48, rel=1e-5)


@pytest.mark.parametrize(("numerics", "kept"), [("corrected", (1.0, 1.0)), ("published", (0.6, 0.8))])
def test_clipping_each_role_or_both_together(command, numerics, kept):
    updater = assemble(command(numerics, numerics=numerics, max_grad_norm=1.0)).trainer.updater
    # Norms 3 and 4, together 5.
    for parameters, norm in zip(updater.roles.values(), (3.0, 4.0), strict=True):
        entries = sum(parameter.numel() for parameter in parameters)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, norm / math.sqrt(entries))
    norms = updater._clip()
    assert norms == {
        "grad_norm": pytest.approx(5.0),
        "grad_norm_policy": pytest.approx(3.0),
        "grad_norm_value": pytest.approx(4.0),
    }
    for parameters, norm in zip(updater.roles.values(), kept, strict=True):
        left = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in parameters))
        assert left == pytest.approx(norm, rel=1e-4)
