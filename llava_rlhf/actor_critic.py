"""Policy and value in one module: one forward, one total loss, one backward, so that DDP and DeepSpeed need no tricks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_utils.batches import ImageBatch, left_pad
from data_utils.tokens import expand_image_tokens
from llava_rlhf.functional.log_probs import head_log_probs
from models.roles import Policy, ValueModel
from models.vlm import VisionLanguageModel


class Sequences(NamedTuple):
    """Prompts with responses, as one base sees them.

    Attributes:
        input_ids: int64[B, P + T], prompts left-padded, responses right-padded.
        mask: bool[B, P + T], True at real tokens.
        image_features: float[S, K, D] for the slots of these rows, or None.
    """

    input_ids: Tensor
    mask: Tensor
    image_features: Tensor | None


@dataclass(frozen=True)
class ScoringSettings:
    """How log-probabilities are taken from hidden states.

    Attributes:
        temperature: logits are divided by it, as in sampling.
        chunk_size: response tokens per vocabulary projection.
        banned_ids: tokens that can't be sampled, so that they take no probability.
    """

    temperature: float
    chunk_size: int
    banned_ids: Tensor | None


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the distinct images of a batch, encoded once.

    Attributes:
        features: float[N, K, D], or None when there are no images.
        slots: for each row the indices of its images.
    """

    features: Tensor | None
    slots: list[list[int]]

    @staticmethod
    def encode(vlm: VisionLanguageModel, images: ImageBatch, images_per_row: Sequence[int]) -> ImageFeatures:
        """Run the vision tower over the distinct images of a batch."""
        index = images.image_index.tolist()
        slots, start = [], 0
        for count in images_per_row:
            slots.append(index[start : start + count])
            start += count
        if images.pixel_values is None:
            return ImageFeatures(None, slots)
        return ImageFeatures(
            vlm.encode_images(images.pixel_values, torch.arange(len(images.pixel_values))), slots
        )

    def select(self, rows: Sequence[int]) -> Tensor | None:
        """float[S, K, D] for the image slots of these rows in order."""
        index = [slot for row in rows for slot in self.slots[row]]
        if self.features is None or not index:
            return None
        return self.features[torch.tensor(index, device=self.features.device)]

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Features of several batches as one."""
        slots, start = [], 0
        for part in parts:
            slots.extend([[slot + start for slot in row] for row in part.slots])
            start += 0 if part.features is None else len(part.features)
        present = [part.features for part in parts if part.features is not None]
        return ImageFeatures(torch.cat(present) if present else None, slots)


def expanded_queries(
    queries: Sequence[Sequence[int]], vlm: VisionLanguageModel, pad_id: int
) -> tuple[Tensor, Tensor]:
    """Queries with each image at its full width, left-padded: int64[B, P] and mask bool[B, P] on the model's device."""
    rows = [expand_image_tokens(ids, vlm.image_token_id, vlm.tokens_per_image) for ids in queries]
    ids, mask = left_pad(rows, pad_id)
    return ids.to(vlm.device), mask.to(vlm.device)


def join_responses(
    queries: tuple[Tensor, Tensor], responses: Tensor, response_mask: Tensor, image_features: Tensor | None
) -> Sequences:
    """Put responses int64[B, T] (mask bool[B, T]) behind left-padded queries."""
    ids, mask = queries
    return Sequences(
        torch.cat([ids, responses], dim=1), torch.cat([mask, response_mask], dim=1), image_features
    )


def response_log_probs(
    policy: Policy,
    sequences: Sequences,
    counted: Tensor,
    settings: ScoringSettings,
    training: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (nats) of every response token that counts; 0 elsewhere.

    Padding that counts (`Numerics.PUBLISHED`) has the entropy predicted there, but log-probability 0: the original took
    it with the cross-entropy that ignores the padding id.

    Args:
        policy: the role that is asked.
        sequences: prompts + responses; the last T columns are the responses.
        counted: bool[B, T], True where they are wanted.
        settings: temperature, chunks, banned tokens.
        training: keep the graph and recompute activations if the bank is set so.

    Returns:
        float32[B, T], float32[B, T] (the entropy without gradient).
    """
    width = counted.shape[1]
    states = policy.response_states(*sequences, width, training)
    targets = sequences.input_ids[:, -width:]
    log_probs, entropy = head_log_probs(
        states[counted],
        targets[counted],
        policy.project,
        settings.temperature,
        settings.chunk_size,
        with_entropy=True,
        banned_ids=settings.banned_ids,
    )
    real = sequences.mask[:, -width:]
    return _spread(log_probs, counted).masked_fill(~real, 0.0), _spread(entropy, counted)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


class ActorCritic(nn.Module):
    """The trained half of PPO: the module that accelerate wraps."""

    def __init__(self, policy: Policy, value: ValueModel, settings: ScoringSettings):
        super().__init__()
        self.policy = policy
        self.value = value
        self.settings = settings

    def forward(
        self, policy_sequences: Sequences, value_sequences: Sequences, counted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values, each float32[B, T], of response columns counted bool[B, T]."""
        log_probs, entropy = response_log_probs(
            self.policy, policy_sequences, counted, self.settings, training=True
        )
        values = self.value(*value_sequences, counted.shape[1], training=True)
        return log_probs, entropy, values

    def roles(self) -> dict[str, list[nn.Parameter]]:
        """The trained weights of each role."""
        return {
            "policy": list(self.policy.bank.parameters_of(self.policy.adapter).values()),
            "value": [
                *self.value.bank.parameters_of(self.value.adapter).values(),
                *self.value.head.parameters(),
            ],
        }
