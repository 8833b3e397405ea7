"""What the main process does for all, and failures that all of them learn of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from llava_rlhf.runs.stopping import EngineError

T = TypeVar("T")


def from_main(work: Callable[[], T]) -> T:
    """What `work` gives in the main process, in every process. All must call it.

    Raises:
        EngineError: in every process, where `work` raised one in the main process.
    """
    box: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            box[0] = work()
        except EngineError as error:
            box[1] = str(error)
    value, failure = broadcast_object_list(box)
    if failure is not None:
        raise EngineError(failure)
    return value


def agree(failure: str | None) -> None:
    """Raise EngineError in every process where any of them has a failure. All must call it."""
    mine: Sequence[str | None] = [failure]
    failures = [one for one in gather_object(mine) if one is not None]
    if failures:
        raise EngineError(failures[0])
