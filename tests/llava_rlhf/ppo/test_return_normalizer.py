"""The critic's units: hand arithmetic, and values that stay what they are when the units move."""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.functional.masked import moments
from llava_rlhf.ppo.return_normalizer import ReturnNormalizer
from models.heads import ScalarHead


def moments_of(*numbers: float):
    returns = torch.tensor([numbers], dtype=torch.float64)
    return moments(returns, torch.ones_like(returns, dtype=torch.bool))


@pytest.fixture
def head() -> ScalarHead:
    torch.manual_seed(0)
    return ScalarHead(8)


def test_units_are_running_mean_and_spread(head):
    units = ReturnNormalizer(head)
    assert not units.begun and (units.mean, units.spread) == (0.0, 1.0)
    units.begin(moments_of(60.0, 80.0))
    assert units.begun and units.mean == pytest.approx(70) and units.spread == pytest.approx(10)
    units.update(moments_of(10.0, 10.0))
    # Weights 0.09 and 0.1: mean (0.09·70 + 0.1·10) / 0.19, square (0.09·5000 + 0.1·100) / 0.19.
    assert units.mean == pytest.approx(7.3 / 0.19)
    assert units.spread == pytest.approx((460 / 0.19 - (7.3 / 0.19) ** 2) ** 0.5)


@torch.no_grad()
def test_values_stay_what_they_are_when_units_move(head):
    units, states = ReturnNormalizer(head), torch.randn(100, 8)
    units.begin(moments_of(60.0, 80.0))
    before, said = units.values(head(states)), head(states)
    units.update(moments_of(-300.0, 500.0))
    assert units.spread > 100 and not torch.allclose(head(states), said)
    torch.testing.assert_close(units.values(head(states)), before, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_critic_that_starts_at_zero_says_the_mean_of_the_first_returns():
    units = ReturnNormalizer(ScalarHead(8, zero=True))
    units.begin(moments_of(60.0, 80.0))
    assert units.values(units.head(torch.randn(3, 8))).tolist() == pytest.approx([70.0] * 3)


def test_outputs_and_values_are_each_others_inverse(head):
    units = ReturnNormalizer(head)
    units.begin(moments_of(1.0, 5.0))
    assert units.outputs(torch.tensor([5.0, 3.0])).tolist() == pytest.approx([1.0, 0.0])
    assert units.values(torch.tensor([1.0, 0.0])).tolist() == pytest.approx([5.0, 3.0])


def test_returns_that_are_all_alike_divide_by_no_zero(head):
    units = ReturnNormalizer(head)
    units.begin(moments_of(3.0, 3.0))
    assert units.outputs(torch.tensor([3.0])).tolist() == [0.0] and units.spread > 0


def test_what_is_saved_is_taken_back(head):
    units, other = ReturnNormalizer(head), ReturnNormalizer(head)
    units.begin(moments_of(1.0, 5.0))
    other.load_state_dict(units.state_dict())
    assert (other.mean, other.spread, other.weight) == (units.mean, units.spread, units.weight)


@torch.no_grad()
def test_what_an_engine_keeps_in_float32_is_not_rounded(head, monkeypatch):
    """Its copies hold small updates that the parameters, in bfloat16, do not show yet."""
    utils = pytest.importorskip("deepspeed.utils")
    copies = {id(parameter): parameter.clone() + 1e-5 for parameter in head.linear.parameters()}
    before = {place: copy.clone() for place, copy in copies.items()}
    head.linear.bfloat16()
    for parameter in head.linear.parameters():
        parameter._hp_mapping = None  # as on a process whose share holds nothing of it
    monkeypatch.setattr(utils, "safe_get_full_fp32_param", lambda parameter: copies[id(parameter)])
    monkeypatch.setattr(
        utils, "safe_set_full_fp32_param", lambda parameter, value: copies.update({id(parameter): value})
    )
    units = ReturnNormalizer(head)
    units.begin(moments_of(1.0, 5.0))
    bring_back, spread = units.undo(), units.spread
    units.update(moments_of(-30.0, 50.0))
    weight = id(head.linear.weight)
    torch.testing.assert_close(copies[weight], before[weight] * (spread / units.spread), rtol=1e-6, atol=0)
    bring_back()
    assert all(torch.equal(copies[place], before[place]) for place in copies) and units.spread == spread
