"""Log-probabilities and entropies of tokens, without ever holding the whole [tokens, vocabulary] table.

A vocabulary of 32 000 makes logits 500 times as large as a hidden state of 64 values: ``head_log_probs`` therefore goes
through the tokens in chunks. The log-probability of a token depends on one hidden state only, so its gradient is taken
while the chunk is there: a vector of the hidden state's size is kept for it, and backward projects nothing again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


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

    Logits are cast to float32 and divided by the temperature before the softmax.

    Args:
        hidden: float[N, D], the state that predicts each target.
        targets: int64[N].
        project: hidden states [n, D] to logits [n, V], a new tensor, which is overwritten: the language-model head. It
            does not train: gradients go to ``hidden`` alone.
        temperature: sampling temperature, > 0.
        chunk_size: tokens per chunk, >= 1; bounds the memory at 2 float32 tables of ``chunk_size`` x V (and the logits, where
            they have another dtype), changes no number.
        with_entropy: also return the entropies.
        banned_ids: int64[K] tokens that can't be sampled (such as the image token): their logits count as -inf.

    Returns:
        float32[N] log-probabilities in nats with gradients to ``hidden`` (-inf where a target cannot occur), and
        float32[N] entropies in nats without gradients (None unless asked for).

    Raises:
        ValueError: temperature or chunk size out of range.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1 token, got {chunk_size}")
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)
    differentiable = torch.is_grad_enabled() and hidden.requires_grad
    log_probs, entropies, slopes = [], [], []
    for states, chunk in zip(hidden.detach().split(chunk_size), targets.split(chunk_size), strict=True):
        with torch.set_grad_enabled(differentiable):
            states.requires_grad_(differentiable)
            logits = project(states)
        found, entropy, probabilities = _score(logits.detach(), chunk, temperature, with_entropy, banned_ids)
        log_probs.append(found)
        entropies.append(entropy)
        if differentiable:
            # d log p(target) / d logits = (one-hot − p) / temperature
            slope = probabilities.neg_().scatter_add_(
                1, chunk.unsqueeze(1), torch.ones_like(found).unsqueeze(1)
            )
            slope = slope.div_(temperature).to(logits.dtype)
            slopes += torch.autograd.grad(logits, states, slope)
            del slope
        del logits, probabilities  # before the next chunk needs their memory
    result = torch.cat(log_probs)
    if differentiable:
        result = _KnownSlope.apply(hidden, result, torch.cat(slopes))
    return result, torch.cat(entropies) if with_entropy else None


@torch.no_grad()
def _score(
    logits: Tensor, targets: Tensor, temperature: float, with_entropy: bool, banned_ids: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-probabilities float32[n], entropies float32[n] and probabilities float32[n, V]; `logits` is overwritten."""
    table = logits.float()
    if temperature != 1.0:
        table.div_(temperature)
    if banned_ids is not None:
        table.index_fill_(1, banned_ids, -torch.inf)
    table.sub_(table.amax(dim=1, keepdim=True))
    odds = table.exp()
    total = odds.sum(dim=1, keepdim=True)
    log_total = total.log().squeeze(1)
    log_probs = table.gather(1, targets.unsqueeze(1)).squeeze(1) - log_total
    probabilities = odds.div_(total)
    entropy = None
    if with_entropy:
        # −Σ p log p = log Σ exp(x) − Σ p x; tokens that cannot occur contribute 0 (p log p tends to 0 with p).
        table.clamp_(min=torch.finfo(table.dtype).min)
        entropy = log_total - table.mul_(probabilities).sum(dim=1)
    return log_probs, entropy, probabilities


class _KnownSlope(torch.autograd.Function):
    """Joins float[N] results to the states float[N, D] that they were computed from, row by row."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, results: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return results.view_as(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return (gradient.unsqueeze(1) * slopes).to(slopes.dtype), None, None
