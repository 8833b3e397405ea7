"""The policy answers in this process, sampled by `models.generation`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from data_utils.batches import PromptBatch
from llava_rlhf.assembly.image_features import padded_queries
from models.generation import Sample, SamplingSettings
from models.packed_features import PackedFeatures
from models.roles import Policy


@dataclass(frozen=True)
class PolicyEngine:
    """As `RolloutEngine`.

    Attributes:
        policy: the role.
        settings: how it answers.
        merge_adapter: see `AdapterBank.use_for_sampling`.
    """

    policy: Policy
    settings: SamplingSettings
    merge_adapter: bool = True

    def begin_step(self, step: int) -> None:
        """Nothing to do: the weights are the policy's own."""

    def start(
        self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None
    ) -> Callable[[], Sample]:
        """As `RolloutEngine.start`; the answers are there at once."""
        queries = [item.query_ids for item in batch.items]
        prompts = padded_queries(queries, features, self.policy.bank.vlm, self.settings.pad_id)
        answers = self.policy.sample(*prompts, features, self.settings, uniforms, self.merge_adapter)
        return lambda: answers

    def rest(self) -> None:
        """Nothing is held between two steps."""

    def end(self) -> None:
        """Nothing was taken."""
