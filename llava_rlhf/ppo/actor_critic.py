"""Prompts with responses, what policy and value say of them, and both in one module, as DeepSpeed's engine needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from data_utils.batches import right_pad
from llava_rlhf.assembly.equal_chunks import equal_chunks
from llava_rlhf.assembly.image_features import expand_queries
from llava_rlhf.functional.log_probs import head_log_probs
from models.adapters import AdapterBank
from models.packed_features import PackedFeatures
from models.roles import Policy, ValueModel
from models.vlm import VisionLanguageModel


class Responses(NamedTuple):
    """Responses without their prompts.

    Attributes:
        ids: int64[B, T], right-padded.
        mask: bool[B, T], True at real tokens.
        counted: bool[B, T], True at the columns that will be read.
    """

    ids: Tensor
    mask: Tensor
    counted: Tensor


class Sequences(NamedTuple):
    """Prompts with responses, as one base sees them.

    Attributes:
        input_ids: int64[B, L], each prompt with its response behind it, padded behind.
        mask: bool[B, L], True at real tokens; None where what stands at padding is not read.
        image_features: of the slots of these rows, or None.
        columns: int64[B, T], where the response's tokens stand; a column that does not count may point anywhere.
    """

    input_ids: Tensor
    mask: Tensor | None
    image_features: PackedFeatures | None
    columns: Tensor


@dataclass(frozen=True)
class ScoringSettings:
    """How log-probabilities are taken from hidden states.

    Attributes:
        temperature: logits are divided by it, as in sampling.
        chunk_size: response tokens per vocabulary projection.
        banned_ids: tokens that can't be sampled, so that they take no probability.
        entropy: whether it is computed.
        entropy_gradient: whether a loss needs it, so that it has a gradient; otherwise a number to look at.
    """

    temperature: float
    chunk_size: int
    banned_ids: Tensor | None
    entropy: bool = True
    entropy_gradient: bool = False


def join_responses(
    queries: Sequence[Sequence[int]],
    responses: Responses,
    image_features: PackedFeatures | None,
    vlm: VisionLanguageModel,
    pad_id: int,
    padding_read: bool,
) -> Sequences:
    """Put responses behind their queries, without padding between them.

    Args:
        queries: ids, an image as one.
        responses: what was answered.
        image_features: of the slots of these rows.
        vlm, pad_id: of the base that will look at them.
        padding_read: whether padding counts too; the result then has a mask.
    """
    rows = expand_queries(queries, image_features, vlm)
    device, longest = responses.ids.device, responses.ids.shape[1]
    ids, real = (tensor.to(device) for tensor in right_pad(rows, pad_id))
    lengths = torch.tensor([len(row) for row in rows])
    columns = lengths.to(device).unsqueeze(1) + torch.arange(longest, device=device)
    ids = pad(ids, (0, longest), value=pad_id).scatter(1, columns, responses.ids)
    real = pad(real, (0, longest), value=False).scatter(1, columns, responses.mask)
    width = int((columns * responses.counted).max()) + 1
    return Sequences(
        ids[:, :width],
        real[:, :width] if padding_read else None,
        image_features,
        columns.clamp(max=width - 1),
    )


def response_log_probs(
    policy: Policy,
    sequences: Sequences,
    counted: Tensor,
    settings: ScoringSettings,
    training: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability and entropy (nats) of every response token that counts; 0 elsewhere.

    Padding that counts (`Numerics.PUBLISHED`) has the entropy predicted there, but log-probability 0: the original took
    it with the cross-entropy that ignores the padding id.

    Args:
        policy: the role that is asked.
        sequences: prompts with responses.
        counted: bool[B, T], True where they are wanted.
        settings: temperature, chunks, banned tokens.
        training: keep the graph and recompute activations if the bank is set so.

    Returns:
        float32[B, T], float32[B, T] (the entropy; None where it was not asked for).
    """
    states = policy.response_states(*sequences, training)[counted]
    targets = sequences.input_ids.gather(1, sequences.columns)[counted]
    chunk_size, fill = equal_chunks(len(targets), settings.chunk_size, policy.bank.vlm)
    if fill:  # falls away again: `_spread` reads the tokens that count
        states, targets = pad(states, (0, 0, 0, fill)), pad(targets, (0, fill))
    log_probs, entropy = head_log_probs(
        states,
        targets,
        policy.project,
        settings.temperature,
        chunk_size,
        with_entropy=settings.entropy,
        banned_ids=settings.banned_ids,
        entropy_gradient=settings.entropy_gradient,
    )
    log_probs = _spread(log_probs, counted)
    if sequences.mask is not None:
        log_probs = log_probs.masked_fill(~sequences.mask.gather(1, sequences.columns), 0.0)
    return log_probs, None if entropy is None else _spread(entropy, counted)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


class ActorCritic(nn.Module):
    """The trained half of PPO: the module that accelerate wraps. Without a critic `value` is None.

    `beside` is a base that nothing of these stands on, which DeepSpeed shall divide with theirs (ZeRO-3), or None.
    """

    def __init__(
        self,
        policy: Policy,
        value: ValueModel | None,
        settings: ScoringSettings,
        beside: AdapterBank | None = None,
    ):
        super().__init__()
        self.policy = policy
        self.value = value
        self.settings = settings
        self.beside = beside

    def forward(
        self, policy_sequences: Sequences, value_sequences: Sequences | None, counted: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities, entropies and values, each float32[B, T], of response columns counted bool[B, T]."""
        found = self.policy_outputs(policy_sequences, counted)
        return *found, None if value_sequences is None else self.value_outputs(value_sequences)

    def policy_outputs(self, sequences: Sequences, counted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies; the former with their graph, the latter if a loss needs it."""
        return response_log_probs(self.policy, sequences, counted, self.settings, training=True)

    def value_outputs(self, sequences: Sequences) -> Tensor:
        """Values with their graph; columns that do not count hold anything."""
        return self.value(*sequences, training=True)

    def roles(self) -> dict[str, list[nn.Parameter]]:
        """The trained weights of each role."""
        roles = {"policy": list(self.policy.bank.parameters_of(self.policy.adapter).values())}
        if self.value is not None:
            adapter = self.value.bank.parameters_of(self.value.adapter).values()
            roles["value"] = [*adapter, *self.value.head.parameters()]
        return roles
