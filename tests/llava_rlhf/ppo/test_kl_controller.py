"""KL controllers: by hand, at the clip, and across a save and a load."""

from __future__ import annotations

import json

import pytest

from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController


def test_fixed_stays_fixed():
    controller = FixedKLController(0.1)
    controller.update(observed_kl=1e6, n_steps=512)
    assert controller.value == 0.1


def test_adaptive_by_hand():
    controller = AdaptiveKLController(init=0.2, target=6.0, horizon=10_000)
    # (6.6 - 6) / 6 = .1: 0.2 * (1 + .1 * 256 / 10000)
    controller.update(observed_kl=6.6, n_steps=256)
    assert controller.value == pytest.approx(0.2 * 1.00256, rel=1e-12)
    # (5.4 - 6) / 6 = -.1
    controller.update(observed_kl=5.4, n_steps=256)
    assert controller.value == pytest.approx(0.2 * 1.00256 * 0.99744, rel=1e-12)


@pytest.mark.parametrize(
    ("observed", "error"), [(600.0, 0.2), (7.2, 0.2), (0.0, -0.2), (-3.0, -0.2), (6.0, 0.0)]
)
def test_the_error_is_clipped(observed, error):
    controller = AdaptiveKLController(init=1.0, target=6.0, horizon=1000)
    controller.update(observed, n_steps=500)
    assert controller.value == pytest.approx(1.0 + error * 0.5, rel=1e-12)


def test_the_coefficient_settles_where_the_kl_meets_its_target():
    controller = AdaptiveKLController(init=1.0, target=4.0, horizon=100)
    for _ in range(2000):
        controller.update(
            observed_kl=2.0 / controller.value, n_steps=10
        )  # a policy that drifts less at a higher price
    assert controller.value == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("observed", [float("nan"), float("inf")])
def test_a_broken_observation_changes_nothing(observed):
    controller = AdaptiveKLController(init=0.2, target=6.0, horizon=10_000)
    with pytest.raises(ValueError, match="observed KL is"):
        controller.update(observed, n_steps=8)
    assert controller.value == 0.2


def test_a_resumed_controller_continues_where_it_was():
    through = AdaptiveKLController(init=0.2, target=6.0, horizon=1000)
    through.update(9.0, 64)
    saved = json.loads(json.dumps(through.state_dict()))
    through.update(2.0, 64)
    resumed = AdaptiveKLController(init=0.2, target=6.0, horizon=1000)
    resumed.load_state_dict(saved)
    resumed.update(2.0, 64)
    assert resumed.value == through.value != 0.2
    fixed = FixedKLController(0.5)
    fixed.load_state_dict(FixedKLController(0.1).state_dict())
    assert fixed.value == 0.1


def test_the_other_kind_is_refused():
    adaptive = AdaptiveKLController(init=0.2, target=6.0, horizon=1000)
    with pytest.raises(ValueError, match="kind 'fixed', this run asks for 'adaptive'"):
        adaptive.load_state_dict(FixedKLController(0.1).state_dict())
    with pytest.raises(ValueError, match="kind 'adaptive', this run asks for 'fixed'"):
        FixedKLController(0.1).load_state_dict(adaptive.state_dict())


@pytest.mark.parametrize(
    ("init", "target", "horizon", "message"),
    [
        (-0.1, 6.0, 100, "kl_coef must be a finite number >= 0"),
        (float("nan"), 6.0, 100, "kl_coef must be"),
        (0.1, 0.0, 100, "KL target must be a finite number > 0"),
        (0.1, 6.0, 0, "KL horizon must be a finite number > 0"),
    ],
)
def test_ranges_are_checked(init, target, horizon, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveKLController(init, target, horizon)
