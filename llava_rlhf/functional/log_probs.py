"""Log-probabilities and entropies of tokens, without ever holding the whole [tokens, vocabulary] table.

A vocabulary of 32 000 makes logits 500 times as large as a hidden state of 64 values: ``head_log_probs`` therefore goes
through the tokens in chunks. The log-probability of a token depends on one hidden state only, so its gradient is taken
while the chunk is there: a vector of the hidden state's size is kept for it, and backward projects nothing again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
    entropy_gradient: bool = False,
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
        entropy_gradient: the entropies have gradients, too, for a second vector per token and its way back through ``project``.

    Returns:
        float32[N] log-probabilities in nats with gradients to ``hidden`` (-inf where a target cannot occur), and
        float32[N] entropies in nats (None unless asked for).

    Raises:
        ValueError: temperature or chunk size out of range.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1 token, got {chunk_size}")
    assert hidden.ndim == 2 and targets.shape == hidden.shape[:1], (hidden.shape, targets.shape)
    differentiable = torch.is_grad_enabled() and hidden.requires_grad
    with_slope = differentiable and with_entropy and entropy_gradient
    log_probs, entropies, slopes, entropy_slopes = [], [], [], []
    for states, chunk in zip(hidden.detach().split(chunk_size), targets.split(chunk_size), strict=True):
        with torch.set_grad_enabled(differentiable):
            states.requires_grad_(differentiable)
            logits = project(states)
        scores = _score(logits.detach(), chunk, temperature, with_entropy, banned_ids, with_slope)
        log_probs.append(scores.log_probs)
        entropies.append(scores.entropy)
        if differentiable:
            found = _slopes(logits, states, chunk, scores, temperature)
            slopes.append(found[0])
            entropy_slopes.append(found[1])
        del logits, scores  # before the next chunk needs their memory
    result = torch.cat(log_probs)
    entropy = torch.cat(entropies) if with_entropy else None
    if differentiable:
        result = _KnownSlope.apply(hidden, result, torch.cat(slopes))
    if with_slope:
        entropy = _KnownSlope.apply(hidden, entropy, torch.cat(entropy_slopes))
    return result, entropy


class _Scores(NamedTuple):
    """Of a chunk: float32[n], float32[n], and float32[n, V] of probabilities and of d entropy / d (logits / temperature)."""

    log_probs: Tensor
    entropy: Tensor | None
    probabilities: Tensor
    entropy_slope: Tensor | None


@torch.no_grad()
def _score(
    logits: Tensor,
    targets: Tensor,
    temperature: float,
    with_entropy: bool,
    banned_ids: Tensor | None,
    with_slope: bool,
) -> _Scores:
    """What is said of a chunk's logits, float[n, V], which are overwritten; the slope only where it is asked for."""
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
    entropy = slope = None
    if with_entropy:
        # −Σ p log p = log Σ exp(x) − Σ p x; tokens that cannot occur contribute 0 (p log p tends to 0 with p).
        table.clamp_(min=torch.finfo(table.dtype).min)
        mean = table.mul_(probabilities).sum(dim=1)
        entropy = log_total - mean
        if with_slope:  # d entropy / d x = −p (log p + entropy) = p Σ p x − p x
            slope = table.neg_().addcmul_(probabilities, mean.unsqueeze(1))
    return _Scores(log_probs, entropy, probabilities, slope)


def _slopes(
    logits: Tensor, states: Tensor, targets: Tensor, scores: _Scores, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Slopes of log-probabilities and, where asked for, of entropies towards `states`; overwrites the tables of `scores`."""
    ones = torch.ones_like(scores.log_probs).unsqueeze(1)
    # d log p(target) / d (logits / temperature) = one-hot − p
    slope = scores.probabilities.neg_().scatter_add_(1, targets.unsqueeze(1), ones)
    slope = slope.div_(temperature).to(logits.dtype)
    twice = scores.entropy_slope is not None
    (of_log_probs,) = torch.autograd.grad(logits, states, slope, retain_graph=twice)
    if not twice:
        return of_log_probs, None
    slope = scores.entropy_slope.div_(temperature).to(logits.dtype)
    return of_log_probs, torch.autograd.grad(logits, states, slope)[0]


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
