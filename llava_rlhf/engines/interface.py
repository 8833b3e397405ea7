"""The interface of whoever answers prompts with a policy's weights.

Whatever engine answers, log-probabilities are taken again by the model that trains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from data_utils.batches import PromptBatch
from models.generation import Sample, SamplingSettings
from models.packed_features import PackedFeatures


class RolloutEngine(Protocol):
    """Samples responses with the weights that the policy had when the step began.

    Attributes:
        settings: how it answers: limits, stop tokens, temperature, tokens that it never draws.
    """

    settings: SamplingSettings

    def begin_step(self, step: int) -> None:
        """The policy's weights have moved, or the run begins or goes on: answer with those of now. All processes call it.

        Args:
            step: of PPO, counted from 0.
        """
        ...

    def start(
        self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None
    ) -> Callable[[], Sample]:
        """Begin to answer B prompts; several batches may be under way at once.

        Args:
            batch: the prompts.
            uniforms: float[B, max_new_tokens] in [0, 1): the only source of chance, so that a row's answer depends neither
                on its neighbours nor on the order of the batch.
            features: what the policy's base sees in the images of these rows, in row order.

        Returns:
            A function that waits for the answers and gives them: `Sample`, one row a prompt. It may raise EngineError, then
            in all processes.
        """
        ...

    def rest(self) -> None:
        """All answers of the step are there: leave memory to those who look at them. All processes call it."""
        ...

    def end(self) -> None:
        """No more prompts come: give back what was taken. All processes call it."""
        ...
