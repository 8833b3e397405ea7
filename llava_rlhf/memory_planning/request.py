"""What is asked of the planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_rlhf.memory_planning.bases import BaseSpec
from llava_rlhf.memory_planning.names import PICTURE_SIZE
from llava_rlhf.memory_planning.plan import CONTEXT, GIB
from llava_rlhf.memory_planning.settings import Lengths, base_of
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
        picture: width and height of the pictures, where these decide how many positions one takes.
    """

    program: str
    flags: Mapping[str, Any]
    lengths: Lengths
    processes: int = 1
    shape: str | None = None
    reward_shape: str | None = None
    picture: tuple[int, int] = PICTURE_SIZE

    @property
    def on_gpu(self) -> bool:
        """Whether devices have a memory of their own."""
        return not self.flags["use_cpu"]

    @property
    def context(self) -> int:
        """Bytes that a device needs besides tensors."""
        return CONTEXT if self.on_gpu else 0

    def base(self, path: str | None, shape: str | None) -> BaseSpec:
        """A base as it is loaded, by its path or a published shape. Raises ValueError as `base_of` does."""
        return base_of(self.flags, path, shape, self.picture).with_pictures_of(self.lengths.picture)

    def length(self, base: BaseSpec, tokens: int) -> int:
        """Positions that the longest row of so many tokens takes, each of its images counted as one of them."""
        length = tokens + self.lengths.images * (base.positions - 1)
        return min(length, self.lengths.total) if base.counts_positions else length

    def longest(self, base: BaseSpec) -> int:
        """Positions of the longest whole row."""
        return self.lengths.total if base.counts_positions else self.length(base, self.lengths.total)

    def notes(self, base: BaseSpec, trained: Trained) -> tuple[str, ...]:
        """What a reader of the plan should know."""
        lengths = self.lengths
        found = [f"longest rows: {lengths.total} text tokens and {lengths.images} image(s)"]
        if base.counts_positions:
            width, height = base.picture
            found = [
                f"longest rows: {lengths.total} positions, with {lengths.images} picture(s) of {width}x{height} pixels that "
                f"take {base.positions} positions each"
            ]
        paged = paged_bytes(trained.optim, trained.groups)
        if paged and self.on_gpu:
            found.append(
                f"{paged / GIB:.2f} GiB of the moments may be moved to the host when memory is short"
            )
        return tuple(found)
