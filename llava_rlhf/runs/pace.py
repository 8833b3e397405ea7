"""How fast a run goes, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Seconds a step and time left, from the steps that this process has made.

    Args:
        first_step: steps already done when it starts.
        total: steps of the whole run.
        clock: seconds that only grow.
    """

    def __init__(self, first_step: int, total: int, clock: Callable[[], float] = time.monotonic):
        self.first_step = first_step
        self.total = total
        self._clock = clock
        self._started = clock()

    def after(self, done: int) -> str:
        """As text, after so many steps of the run: `12.3 s a step, 4 min left`."""
        made, taken = done - self.first_step, self._clock() - self._started
        if made < 1:
            return ""
        left = taken / made * (self.total - done)
        return f"{taken / made:.2f} s a step, " + (f"{duration(left)} left" if done < self.total else "done")


def duration(seconds: float) -> str:
    """Seconds in the units that one would say them in."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
