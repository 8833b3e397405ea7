"""How a run's speed and the time left are told."""

from __future__ import annotations

import pytest

from llava_rlhf.runs.pace import Pace, duration


def test_time_left_is_that_of_the_steps_made_here():
    now = iter([100.0, 104.0, 112.0])
    pace = Pace(10, 20, lambda: next(now))
    assert pace.after(12) == "2.00 s a step, 16 s left"
    assert pace.after(20) == "1.20 s a step, done"


def test_without_a_step_nothing_is_known():
    assert Pace(10, 20).after(10) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5400, "90 min"),
        (7260, "2 h 1 min"),
        (90000, "25 h 0 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
