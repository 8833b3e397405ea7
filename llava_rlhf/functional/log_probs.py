"""Log-probabilities and entropies of tokens, without ever holding the whole [tokens, vocabulary] table.

A vocabulary of 32 000 makes logits 500 times as large as a hidden state of 64 values: ``head_log_probs`` therefore goes
through the tokens in chunks, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of each target under softmax(logits), computed in float32.

    Args:
        logits: float[..., V]; -inf marks a token that cannot occur.
        targets: int64[...], the tokens that did.

    Returns:
        float32[...], differentiable with respect to ``logits``; -inf where a target cannot occur.
    """
    logits = logits.float()
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last dimension, in float32 and detached: a number to look at.

    Args:
        logits: float[..., V]; -inf columns contribute 0 (p log p tends to 0 with p).

    Returns:
        float32[...] between 0 and log V.
    """
    return torch.special.entr(logits.detach().float().softmax(dim=-1)).sum(dim=-1)


def head_log_probs(
    hidden: Tensor,
    targets: Tensor,
    project: Callable[[Tensor], Tensor],
    temperature: float,
    chunk_size: int,
    with_entropy: bool,
    banned_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of targets from hidden states, one chunk of tokens at a time.

    Logits are cast to float32 and divided by the temperature before the softmax. When gradients are on, a chunk's
    logits are dropped after its forward and computed again in its backward, so ``project`` must be deterministic.

    Args:
        hidden: float[N, D], the state that predicts each target.
        targets: int64[N].
        project: hidden states [n, D] to logits [n, V]: the language-model head.
        temperature: sampling temperature, > 0.
        chunk_size: tokens per chunk, >= 1; bounds the memory at ``chunk_size`` x V, changes no number.
        with_entropy: also return the entropies.
        banned_ids: int64[K] tokens that can't be sampled (such as the image token): their logits count as -inf.

    Returns:
        float32[N] log-probabilities in nats with gradients to ``hidden`` and to what ``project`` trains, and
        float32[N] entropies without gradients (None unless asked for).

    Raises:
        ValueError: temperature or chunk size out of range.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1 token, got {chunk_size}")
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)

    def score(hidden_chunk: Tensor, target_chunk: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = project(hidden_chunk).float()
        if temperature != 1.0:
            logits = logits / temperature
        if banned_ids is not None:
            logits = logits.index_fill(-1, banned_ids, -torch.inf)
        log_probs = token_log_probs(logits, target_chunk)
        # Entropy comes last: the recomputation in backward stops at the last tensor that it needs, before this line.
        return log_probs, token_entropy(logits) if with_entropy else None

    log_probs, entropies = [], []
    for hidden_chunk, target_chunk in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True):
        if torch.is_grad_enabled():
            # The head draws no random numbers, so there is no generator state to keep.
            result = checkpoint(
                score, hidden_chunk, target_chunk, use_reentrant=False, preserve_rng_state=False
            )
        else:
            result = score(hidden_chunk, target_chunk)
        log_probs.append(result[0])
        entropies.append(result[1])
    return torch.cat(log_probs), torch.cat(entropies) if with_entropy else None
