"""Log-probabilities of the tokens that carry a label, in chunks of the vocabulary projection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data_utils.batches import NO_LOSS
from llava_rlhf.assembly.equal_chunks import equal_chunks
from llava_rlhf.functional.log_probs import head_log_probs
from models.packed_features import PackedFeatures
from models.roles import Policy

CHUNK_SIZE = 1024  # labelled tokens per vocabulary projection


@dataclass(frozen=True)
class Labelled:
    """Rows, padded behind, where no label stands: causal attention needs no mask.

    Attributes:
        input_ids: int64[R, L], images expanded.
        labels: int64[R, L], the token itself where its probability is wanted, else -100.
        image_features: of the slots of these rows, or None.
    """

    input_ids: Tensor
    labels: Tensor
    image_features: PackedFeatures | None


def labelled_log_probs(
    policy: Policy, rows: Labelled, banned_ids: Tensor, chunk_size: int, training: bool
) -> Tensor:
    """Log-probability (nats) of each labelled token.

    Args:
        policy: who is asked.
        rows: what it reads.
        banned_ids: int64[K] tokens that can't be sampled: they take no probability.
        chunk_size: labelled tokens per vocabulary projection.
        training: as in `Policy.hidden_states`.

    Returns:
        float32[R, L − 1]: column t is of the token at t + 1, which the state at t predicts; 0 where it has no label.
    """
    labels = rows.labels
    hidden = policy.hidden_states(rows.input_ids, None, rows.image_features, training=training)
    predicts = labels[:, 1:] != NO_LOSS
    places = predicts.flatten().nonzero().squeeze(1)
    chunk_size, fill = equal_chunks(len(places), chunk_size, policy.bank.vlm)
    chosen = torch.cat([places, places.new_zeros(fill)])
    log_probs, _ = head_log_probs(
        hidden[:, :-1].flatten(0, 1)[chosen],
        labels[:, 1:].flatten()[chosen].clamp(min=0),
        policy.project,
        temperature=1.0,
        chunk_size=chunk_size,
        with_entropy=False,
        banned_ids=banned_ids,
    )
    # The gradient of what only fills a chunk is 0, but it is taken, as on the processes where the chunk is full.
    counts = torch.arange(len(chosen), device=chosen.device) < len(places)
    log_probs = log_probs.masked_fill(~counts, 0.0)
    sums = log_probs.new_zeros(predicts.numel()).index_add(0, chosen, log_probs)
    return sums.view(predicts.shape)
