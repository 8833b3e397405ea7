"""The first line of a report and its table, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from llava_rlhf.reporting.changes import Cell, Measure, Measured, limits, short
from llava_rlhf.reporting.run_data import RunData
from llava_rlhf.reporting.statistics import Difference
from llava_rlhf.reporting.training_change import difference_of_means, side_by_side, training_change


def measure(name: str, *cells: Cell) -> Measure:
    return Measure(name, name, "", cells)


def changed(low: float, high: float) -> Cell:
    return Cell(0.5, None, Difference((low + high) / 2, (low, high), 0.01))


def test_numbers_are_short_and_lose_nothing():
    shown = {
        0.8594: ".859",
        -0.4063: "−.406",
        0.0: "0",
        -0.0001: "0",
        1.0: "1.00",
        12.634: "12.63",
        0.9999: "1.000",
    }
    assert {value: short(value) for value in shown} == shown
    assert short(0.1, signed=True) == "+.100" and short(-3.0, signed=True) == "−3.00" and short(None) == "–"
    assert limits((-0.5, 0.25), signed=True) == "[−.500, +.250]"


def test_the_sentence():
    before, after = Cell(0.859, (0.816, 0.898)), Cell(0.348, None, Difference(-0.511, (-0.57, -0.45), 0.001))
    table = Measured("", ("SFT", "PPO"), [measure("hallucination", before, after)], "")
    assert table.sentence() == "hallucination .859 → .348 (−.511, 95 % interval [−.570, −.450])"
    three = Measured("", ("A", "B", "C"), [measure("recall", before, after, Cell(None))], "")
    assert three.sentence() == "recall: A .859, B .348 (−.511, 95 % interval [−.570, −.450]), C –"


@pytest.mark.parametrize(
    ("name", "low", "high", "improved"),
    [
        ("hallucination", -0.2, -0.1, True),
        ("hallucination", 0.1, 0.2, False),
        ("recall", 0.1, 0.2, True),
        ("recall", -0.2, -0.1, False),
        ("recall", -0.1, 0.1, None),
        ("recall", 0.0, 0.1, None),
    ],
)
def test_better_or_worse_beyond_chance(name, low, high, improved):
    assert measure(name, Cell(0.5), changed(low, high)).improved() is improved


def test_a_difference_of_means_by_hand():
    """Variances 1 and 4 of three and four numbers: standard error √(1/3 + 4/4)."""
    found = difference_of_means([1, 2, 3], [4, 4 + 2 * math.sqrt(3), 4, 4 + 2 * math.sqrt(3)])
    error = math.sqrt(1 / 3 + 4 / 4)
    value = 4 + math.sqrt(3) - 2
    assert found.value == pytest.approx(value)
    assert found.interval == pytest.approx((value - 1.96 * error, value + 1.96 * error))
    assert difference_of_means([1], [2, 3]).interval is None


def run(tmp_path, name: str, rewards, scores=()) -> RunData:
    metrics = [{"step": step, "objective/rewards": value} for step, value in enumerate(rewards, 1)]
    values = {step: {"score": list(numbers)} for step, numbers in enumerate(scores, 1)}
    return RunData(tmp_path / name, metrics, values=values)


def test_first_against_last_step_of_a_run(tmp_path):
    assert training_change(run(tmp_path, "short", [1.0])) is None
    found = training_change(run(tmp_path, "a", [2.0, 5.0, 4.0], [[1, 3], [5, 5], [2, 6]]))
    assert [entry.name for entry in found.measures] == ["objective/rewards"]
    half = 1.96 * math.sqrt(2 / 2 + 8 / 2)
    cell = found.measures[0].cells[1]
    assert (cell.value, cell.difference.value) == (4.0, 2.0)
    assert cell.difference.interval == pytest.approx((2 - half, 2 + half))
    assert training_change(run(tmp_path, "b", [2.0, 4.0])).sentence() == "reward 2.00 → 4.00 (+2.00)"


def test_last_steps_of_runs_side_by_side(tmp_path):
    runs = [run(tmp_path, "a", [1.0, 2.0]), run(tmp_path, "b", [3.0]), run(tmp_path, "c", [])]
    found = side_by_side(runs, ["a", "b", "c"])
    assert found.sentence() == "reward: a 2.00, b 3.00 (+1.00), c –"
    assert side_by_side(runs[2:], ["c"]) is None
