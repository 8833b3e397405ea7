"""Each flag on both sides of its threshold, on runs whose metrics are written by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from llava_rlhf.reporting import health as checks
from llava_rlhf.reporting.changes import Cell, Measure, Measured
from llava_rlhf.reporting.health import FLAG, OK, UNKNOWN, first_quarter, health, last_quarter, rise
from llava_rlhf.reporting.page import metric_curves
from llava_rlhf.reporting.run_data import RunData
from llava_rlhf.reporting.statistics import Difference

FINE = {
    "objective/rewards": [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0],
    "objective/kl_sum_seq": [5.0] * 8,
    "objective/kl_avg_seq": [0.1] * 8,
    "ppo/val/explained_variance": [0.5] * 8,
    "response/stop_rate": [1.0] * 8,
    "response/length_mean": [30.0] * 8,
}


def held_out(low: float, high: float) -> Measured:
    after = Cell(0.6, None, Difference((low + high) / 2, (low, high), 0.5))
    return Measured("", ("before", "after"), [Measure("recall", "recall", "", (Cell(0.5), after))], "")


def states(changes=None, measured=None, steps: int = 8, estimator: str = "gae") -> dict[str, str]:
    """Check → state; lists of two are the values of all steps but the last two, and of those."""
    series = {**FINE, **(changes or {})}
    metrics = [
        {"step": step + 1, **{name: values[step] for name, values in series.items() if values is not None}}
        for step in range(steps)
    ]
    arguments = {"EstimatorArguments": {"advantage_estimator": estimator}}
    found = health(RunData(Path("run"), metrics, arguments), measured or held_out(0.05, 0.15))
    assert all(bool(check.todo) == bool(check.why) == (check.state == FLAG) for check in found)
    assert [check.state for check in found] == sorted((c.state for c in found), key=(FLAG, OK, UNKNOWN).index)
    return {check.name: check.state for check in found}


ALL_FINE = dict.fromkeys(("critic", "kl", "stop", "reward", "length"), OK)


def late(value: float, before: float) -> list[float]:
    """Eight steps of which the last quarter has another value."""
    return [before] * 6 + [value] * 2


def test_a_run_without_faults():
    assert states() == ALL_FINE


@pytest.mark.parametrize(
    ("check", "metric", "flagged", "passed"),
    [
        ("critic", "ppo/val/explained_variance", late(0.09, 0.9), late(0.1, 0.0)),
        ("critic", "ppo/val/explained_variance", [-0.5] * 8, [0.9] * 8),
        ("kl", "objective/kl_sum_seq", late(20.1, 1.0), late(20.0, 30.0)),
        ("kl", "objective/kl_avg_seq", late(0.51, 0.0), late(0.5, 0.9)),
        ("kl", "objective/kl_sum_seq", late(0.009, 1.0), late(0.01, 0.0)),
        ("stop", "response/stop_rate", late(0.89, 1.0), late(0.9, 0.5)),
        ("length", "response/length_mean", late(14.9, 30.0), late(15.0, 30.0)),
    ],
)
def test_thresholds(check, metric, flagged, passed):
    assert states({metric: flagged}) == {**ALL_FINE, check: FLAG}
    assert states({metric: passed}) == ALL_FINE


def test_values_that_are_clipped():
    assert states({"ppo/val/clipfrac": late(0.31, 0.0)}) == {**ALL_FINE, "value clip": FLAG}
    assert states({"ppo/val/clipfrac": late(0.3, 1.0)}) == {**ALL_FINE, "value clip": OK}


def test_an_engine_that_answers_otherwise():
    """Its difference also has a curve, as every metric has."""
    assert states({"engine/kl": late(2.1e-3, 0.0)}) == {**ALL_FINE, "engine": FLAG}
    assert states({"engine/kl": late(1.9e-3, 0.1)}) == {**ALL_FINE, "engine": OK}
    metrics = [
        {"objective/rewards": 1.0, "engine/kl": kl, "engine/tokens_off": 0.3, "step": step}
        for step, kl in enumerate([1e-9, 0.01], 1)
    ]
    run = RunData(Path("run"), metrics)
    (check,) = [check for check in health(run, None) if check.name == "engine"]
    assert "KL 0.01 nats a token (above 0.002 is flagged), 30% of the tokens" in check.seen
    (curve,) = [curve for curve in metric_curves([run], ["run"]) if curve["name"] == "engine/kl"]
    assert "KL of the engine that samples" in curve["meaning"]
    assert curve["figure"]["series"][0]["y"] == [1e-9, 0.01]


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "reinforce"])
def test_groups_without_spread_where_there_is_no_critic(estimator):
    plain = {name: state for name, state in ALL_FINE.items() if name != "critic"}
    groups = estimator != "reinforce"
    for alike, state in ((late(0.51, 0.0), FLAG), (late(0.5, 1.0), OK)):
        found = states({"ppo/groups/without_spread": alike}, estimator=estimator)
        assert found == plain | ({"groups": state} if groups else {})
    assert states(estimator=estimator) == plain, "a run that did not log them"


def test_reward_and_held_out_quality():
    assert states(measured=held_out(-0.01, 0.1))["reward"] == FLAG  # flat
    assert states(measured=held_out(-0.2, -0.1))["reward"] == FLAG  # worse
    still = {"objective/rewards": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]}
    assert states(still, held_out(-0.01, 0.1))["reward"] == OK
    metrics = [
        {"step": step + 1, **{name: values[step] for name, values in FINE.items()}} for step in range(8)
    ]
    alone = {check.name: check for check in health(RunData(Path("run"), metrics), None)}
    assert alone["reward"].state == UNKNOWN and "--scores" in alone["reward"].seen


def test_what_cannot_be_told_is_not_called_fine():
    assert states(steps=3) == {**ALL_FINE, "reward": UNKNOWN, "length": UNKNOWN}
    lacking = {"ppo/val/explained_variance": None, "response/stop_rate": None}
    assert states(lacking) == {**ALL_FINE, "critic": UNKNOWN, "stop": UNKNOWN}
    assert health(RunData(Path("run"), [{"step": 1, "loss": 0.5}]), None) == []


def test_quarters_and_their_rise_by_hand():
    assert list(first_quarter(range(9))) == [0, 1] and list(last_quarter(range(9))) == [7, 8]
    assert list(first_quarter([3])) == list(last_quarter([3])) == [3]
    assert rise([1, 2, 3]) is None
    # Means 1 and 4; variances 2 and 8 of two numbers each: 3 / √(2/2 + 8/2)
    assert rise([0, 2, 9, 9, 9, 9, 2, 6]) == pytest.approx(3 / math.sqrt(5))
    assert rise([1] * 8) == 0 and rise([1, 1, 1, 2]) == math.inf


def test_the_thresholds_stand_in_the_document():
    text = (Path(__file__).parents[3] / "docs/run_report.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (critic|KL|stop rate|reward|length|engine) \|(.*)$", text, re.MULTILINE))
    shown = {
        "critic": [f"{checks.MIN_EXPLAINED_VARIANCE}"],
        "KL": [f"{checks.MAX_KL:g}", f"{checks.MAX_KL_PER_TOKEN}", f"{checks.MIN_KL}"],
        "stop rate": [f"{checks.MIN_STOP_RATE:.0%}".replace("%", " %")],
        "reward": [f"{checks.REWARD_RISE:g} standard errors"],
        "engine": [f"{checks.NOTABLE_ENGINE_KL}"],
        "length": [f"{checks.MIN_LENGTH_RATIO:.0%}".replace("%", " %")],
    }
    assert {name: all(number in rows[name] for number in numbers) for name, numbers in shown.items()} == (
        dict.fromkeys(shown, True)
    )
