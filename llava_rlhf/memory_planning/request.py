"""What is asked of the planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_rlhf.memory_planning.plan import CONTEXT, GIB
from llava_rlhf.memory_planning.settings import Lengths
from llava_rlhf.memory_planning.weights import Trained, paged_bytes


@dataclass(frozen=True)
class Request:
    """What to plan.

    Attributes:
        program: one of `names.PROGRAMS`.
        flags: all of its flags by name.
        lengths: of the rows.
        processes: how many train together, each on a device of its own.
        shape, reward_shape: published shapes to take instead of what lies at the paths of the bases.
    """

    program: str
    flags: Mapping[str, Any]
    lengths: Lengths
    processes: int = 1
    shape: str | None = None
    reward_shape: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether devices have a memory of their own."""
        return not self.flags["use_cpu"]

    @property
    def context(self) -> int:
        """Bytes that a device needs besides tensors."""
        return CONTEXT if self.on_gpu else 0

    def notes(self, trained: Trained) -> tuple[str, ...]:
        """What a reader of the plan should know."""
        lengths = self.lengths
        found = [f"longest rows: {lengths.total} text tokens and {lengths.images} image(s)"]
        paged = paged_bytes(trained.optim, trained.groups)
        if paged and self.on_gpu:
            found.append(
                f"{paged / GIB:.2f} GiB of the moments may be moved to the host when memory is short"
            )
        return tuple(found)
