"""Sampling from the language model, and where a response stops.

Written out rather than `generate()`, because RL needs what is not on offer there: float32 logits of the same hidden
states that training scores, tokens that can never be drawn, no top-k or top-p by accident, and randomness that belongs
to a row: its uniform numbers are handed in, so what a row answers depends neither on its neighbours nor on how the
rows are spread over batches and processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from models.vlm import VisionLanguageModel


@dataclass(frozen=True)
class SamplingSettings:
    """How to answer.

    Attributes:
        max_new_tokens: at most this many tokens, the stop token included.
        stop_ids: a row ends with the first of these (kept in the response).
        pad_id: fills the columns after a row's end.
        temperature: logits are divided by it; 0 takes the most likely token.
        banned_ids: tokens that can't be drawn, for example the image token.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    pad_id: int
    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()


class Sample(NamedTuple):
    """Answers: `ids` int64[B, T] right-padded with `pad_id`; `mask` bool[B, T], True up to and with the stop token."""

    ids: Tensor
    mask: Tensor


@torch.no_grad()
def sample(
    vlm: VisionLanguageModel,
    input_ids: Tensor,
    mask: Tensor,
    image_features: Tensor | None,
    settings: SamplingSettings,
    uniforms: Tensor | None = None,
) -> Sample:
    """Answer a batch of prompts.

    Args:
        vlm: the base, in eval mode, with an adapter in use.
        input_ids: int64[B, P], left-padded (the last column is real in every row).
        mask: bool[B, P], True at real tokens.
        image_features: float[S, K, D] for the slots of these rows.
        settings: see `SamplingSettings`.
        uniforms: float[B, max_new_tokens] in [0, 1), one number a draw; not needed at temperature 0.

    Returns:
        `Sample` with T = the longest answer.

    Raises:
        ValueError: right-padded prompts or missing uniforms. RuntimeError: the model is in train mode.
    """
    if settings.temperature > 0 and (uniforms is None or uniforms.shape[1] < settings.max_new_tokens):
        raise ValueError("sampling at a temperature needs `max_new_tokens` uniform numbers for each row")
    if vlm.model.training:
        # Gradient checkpointing would drop the cache: wrong tokens, and no error.
        raise RuntimeError("sampling needs the model in eval mode")
    if not bool(mask[:, -1].all()):
        raise ValueError("prompts must be left-padded: the last column has padding")
    rows = input_ids.shape[0]
    stop_ids = torch.tensor(settings.stop_ids, device=input_ids.device)
    banned = torch.tensor(settings.banned_ids, device=input_ids.device, dtype=torch.long)
    alive = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
    cache = DynamicCache()
    hidden = vlm(input_ids, mask, image_features, past_key_values=cache)
    ids: list[Tensor] = []
    alive_at: list[Tensor] = []
    while True:
        logits = vlm.project(hidden[:, -1]).float().index_fill(1, banned, float("-inf"))
        if settings.temperature > 0:
            token = _invert_cdf(logits / settings.temperature, uniforms[:, len(ids)].to(logits.device))
        else:
            token = logits.argmax(dim=-1)
        token = torch.where(alive, token, settings.pad_id)
        ids.append(token)
        alive_at.append(alive)
        alive = alive & ~torch.isin(token, stop_ids)
        if len(ids) == settings.max_new_tokens or not bool(alive.any()):
            break
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        hidden = vlm(token.unsqueeze(1), mask, past_key_values=cache)
    return Sample(torch.stack(ids, dim=1), torch.stack(alive_at, dim=1))


def _invert_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """int64[B]: for each row the first token at which the cumulated probability exceeds `uniform` float[B].

    Where sums are rounded tree-wise, as on a GPU, neighbouring prefixes may come out of order by a last digit, and a
    token of probability 0 may get a width: sorted again, and never drawn.
    """
    probabilities = torch.softmax(logits, dim=-1)
    cumulated = probabilities.cumsum(dim=-1).cummax(dim=-1).values
    total = cumulated[:, -1:]  # rounding leaves it a little beside 1
    token = torch.searchsorted(cumulated, uniform.unsqueeze(1) * total, right=True)
    # A uniform number may have been rounded to 1: at most the token that completes the sum.
    token = torch.minimum(token, (cumulated < total).sum(dim=-1, keepdim=True))
    possible = probabilities.gather(1, token) > 0
    return torch.where(possible, token, probabilities.argmax(dim=-1, keepdim=True)).squeeze(1)
