"""Which cases of a test run when: some always, some in continuous integration (`slow`), the rest once a night (`nightly`).

The rule: every kind of thing stays in continuous integration with a case or more; what repeats it becomes nightly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def tiered(
    cases: Iterable[Any],
    quick: Collection[Any] = (),
    daily: Collection[Any] | None = None,
    name: Callable[[Any], Any] = lambda case: case,
) -> list[Any]:
    """Cases as parameters of a test with the marks of their tier.

    Args:
        cases: a tuple is a case of several parameters.
        quick, daily: names of those that run always, and of those that are only slow (None: all others).
        name: what a case is called in them, and in the test's id where that is a word.

    Raises:
        ValueError: a name in `quick` or `daily` is of no case, so that nothing would stay where it was meant to.
    """
    named = [(name(case), case) for case in cases]
    unknown = [one for one in (*quick, *(daily or ())) if one not in [called for called, _ in named]]
    if unknown:
        raise ValueError(f"no case is called {unknown}")
    params = []
    for called, case in named:
        late = daily is not None and called not in daily
        marks = () if called in quick else pytest.mark.nightly if late else pytest.mark.slow
        values = case if isinstance(case, tuple) else (case,)
        params.append(pytest.param(*values, marks=marks, id=called if isinstance(called, str) else None))
    return params
