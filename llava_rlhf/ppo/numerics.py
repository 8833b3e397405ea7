"""The choice between the arithmetic of the 2023 release and ours: everything that `--numerics` changes stands here."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the choice is a setting, which is shown without torch
    from torch import Tensor


class Numerics(str, Enum):
    """Which columns of a response count, and what is clipped together."""

    CORRECTED = "corrected"
    """Only real tokens count, and each role's gradient is clipped by its own norm."""
    PUBLISHED = "published"
    """Every column up to `response_len` counts, so padding enters all means and the score sits in the last column;
    policy and value are clipped by their joint norm."""

    def columns(
        self, responses: Tensor, mask: Tensor, response_len: int, pad_id: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The columns that a rollout keeps, and which of them count.

        Args:
            responses: int64[B, T], right-padded with `pad_id`.
            mask: bool[B, T], True at real tokens.
            response_len: the longest response allowed, in tokens.

        Returns:
            responses and mask, widened to `response_len` columns if those count, and bool of their shape: True where a
            column enters means, losses, advantages and whitening.
        """
        if self is Numerics.CORRECTED:
            return responses, mask, mask
        import torch
        from torch.nn.functional import pad

        missing = response_len - responses.shape[1]
        responses, mask = pad(responses, (0, missing), value=pad_id), pad(mask, (0, missing), value=False)
        return responses, mask, torch.ones_like(mask)

    @property
    def counts_padding(self) -> bool:
        """Whether what is computed at padding behind a response is read."""
        return self is Numerics.PUBLISHED

    @property
    def clips_jointly(self) -> bool:
        """Whether policy and value are clipped by the norm of both together; else each by its own."""
        return self is Numerics.PUBLISHED
