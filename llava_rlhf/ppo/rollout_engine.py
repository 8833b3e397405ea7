"""Who answers the prompts of a PPO step.

The loop asks a `RolloutEngine`; the only one here is the policy itself, sampled by `models.generation`. Engines of other
projects could stand behind the same interface, but need what they do not offer on every machine: vLLM, for one, runs on CUDA
only and brings its own versions of PyTorch and transformers, so it could not be tested with the rest and is left out. Whatever
engine answers, log-probabilities are taken again by the model that trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from data_utils.batches import PromptBatch
from llava_rlhf.ppo.actor_critic import expanded_queries
from models.generation import Sample, SamplingSettings
from models.packed_features import PackedFeatures
from models.roles import Policy


class RolloutEngine(Protocol):
    """Samples responses with the weights that the policy has at that moment.

    Attributes:
        settings: how it answers: limits, stop tokens, temperature, tokens that it never draws.
    """

    settings: SamplingSettings

    def sample(self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None) -> Sample:
        """Answer B prompts.

        Args:
            batch: the prompts.
            uniforms: float[B, max_new_tokens] in [0, 1): the only source of chance, so that a row's answer depends neither
                on its neighbours nor on the order of the batch.
            features: what the policy's base sees in the images of these rows, in row order.

        Returns:
            `Sample`, one row a prompt.
        """
        ...


@dataclass(frozen=True)
class PolicyEngine:
    """The policy answers in this process.

    Attributes:
        policy: the role.
        settings: how it answers.
        merge_adapter: see `AdapterBank.use_for_sampling`.
    """

    policy: Policy
    settings: SamplingSettings
    merge_adapter: bool = True

    def sample(self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None) -> Sample:
        """As `RolloutEngine.sample`."""
        queries = [item.query_ids for item in batch.items]
        prompts = expanded_queries(queries, features, self.policy.bank.vlm, self.settings.pad_id)
        return self.policy.sample(*prompts, features, self.settings, uniforms, self.merge_adapter)
