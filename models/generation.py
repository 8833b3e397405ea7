"""Sampling from the language model, and where a response stops.

Written out rather than `generate()`, because RL needs what is not on offer there: float32 logits of the same hidden
states that training scores, tokens that can never be drawn, no top-k or top-p by accident, and randomness that belongs
to a row: its uniform numbers are handed in, so what a row answers depends neither on its neighbours nor on how the
rows are spread over batches and processes.

Rows that have stopped leave the batch, and with them the left padding that only they needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.decoding_cache import DecodingCache
from models.packed_features import PackedFeatures
from models.vlm import VisionLanguageModel

# On an accelerator a look at what has stopped waits for all work under way: there only every so many tokens.
TOKENS_BETWEEN_LOOKS = 16


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
    """Answers.

    Attributes:
        ids: int64[B, T], right-padded with `pad_id`.
        mask: bool[B, T], True up to and with the stop token.
        finite: bool[B], False where a logit was NaN or +∞, or all were −∞: what was drawn from there on means nothing. None
            from an engine that does not know.
        log_probs: float32[B, T] in nats, of the drawn tokens among those that could be drawn, at the temperature; 0 where not
            real. None where they were not kept.
    """

    ids: Tensor
    mask: Tensor
    finite: Tensor | None = None
    log_probs: Tensor | None = None


@torch.no_grad()
def sample(
    vlm: VisionLanguageModel,
    input_ids: Tensor,
    mask: Tensor,
    image_features: PackedFeatures | None,
    settings: SamplingSettings,
    uniforms: Tensor | None = None,
    tokens_between_looks: int | None = None,
    on_tokens: Callable[[Tensor, Tensor], None] | None = None,
) -> Sample:
    """Answer a batch of prompts.

    Args:
        vlm: the base, in eval mode, with an adapter in use.
        input_ids: int64[B, P], left-padded (the last column is real in every row).
        mask: bool[B, P], True at real tokens.
        image_features: of the slots of these rows.
        settings: see `SamplingSettings`.
        uniforms: float[B, max_new_tokens] in [0, 1), one number a draw; not needed at temperature 0.
        tokens_between_looks: how often rows that have stopped are taken out; by default at every token on a CPU, every
            `TOKENS_BETWEEN_LOOKS` elsewhere. The answers do not depend on it.
        on_tokens: called for each column with the rows int64[k] that still answer and the tokens int64[k] they drew, for
            whoever shows an answer while it grows. Between two looks rows that have stopped are among them. What it raises
            ends the sampling.

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
    device = input_ids.device
    if tokens_between_looks is None:
        tokens_between_looks = 1 if device.type == "cpu" else TOKENS_BETWEEN_LOOKS
    stop_ids = torch.tensor(settings.stop_ids, device=device)
    draw = _Draw(settings, uniforms, len(mask), device)
    batch = _Answering(mask, settings.max_new_tokens)
    ids = torch.full((len(mask), settings.max_new_tokens), settings.pad_id, device=device)
    hidden, batch.positions = vlm.read_prompts(input_ids, mask, image_features, batch.cache)
    for column in range(settings.max_new_tokens):
        token = draw(vlm.project(hidden), batch.rows, column)
        ids[:, column].index_copy_(0, batch.rows, token)
        if on_tokens is not None:
            on_tokens(batch.rows, token)
        if column + 1 == settings.max_new_tokens:
            break
        batch.stopped |= torch.isin(token, stop_ids)
        if (column + 1) % tokens_between_looks == 0:
            token = batch.let_go(token)
            if not len(token):
                break
        hidden = vlm.decode(token, *batch.next_column(), batch.cache)
    return _cut(ids[:, : column + 1], stop_ids, settings.pad_id)._replace(finite=draw.finite)


class _Answering:
    """The rows that still answer: where they came from, how far they are, and what the model keeps of them.

    Attributes:
        rows: int64[k], their rows in the whole batch.
        stopped: bool[k], those that have stopped since the last look.
        cache: keys and values of columns `first` to `end`.
        positions: int64[k, 1], of the token that each row draws next; the base says where its prompt ends.
    """

    def __init__(self, mask: Tensor, max_new_tokens: int):
        count, self.end = mask.shape
        self.first = 0
        self.rows = torch.arange(count, device=mask.device)
        self.stopped = torch.zeros(count, dtype=torch.bool, device=mask.device)
        self.cache = DecodingCache()
        self.mask = torch.cat([mask, mask.new_ones(count, max_new_tokens)], dim=1)
        self.padded = not bool(mask.all())

    def next_column(self) -> tuple[Tensor | None, Tensor]:
        """Begin another column: its mask bool[k, past + 1], None where nothing is padded, and positions int64[k, 1]."""
        self.end += 1
        position, self.positions = self.positions, self.positions + 1
        return (self.mask[:, self.first : self.end] if self.padded else None), position

    def let_go(self, token: Tensor) -> Tensor:
        """Take the stopped rows out; returns what is left of `token` int64[k].

        The last rows move to the places that become free, so that few are copied.
        """
        if not bool(self.stopped.any()):
            return token
        count = len(self.stopped) - int(self.stopped.sum())
        kept = torch.arange(count, device=token.device)
        kept[self.stopped[:count]] = count + (~self.stopped[count:]).nonzero().squeeze(1)
        self.rows, self.mask = self.rows[kept], self.mask[kept]
        self.positions, self.stopped = self.positions[kept], self.stopped[kept]
        before = self.first
        if count and self.padded:
            # The first column in which any of them is real.
            self.first = int(self.mask.any(dim=0).int().argmax())
            self.padded = not bool(self.mask[:, self.first :].all())
        self.cache.keep(kept, self.first - before)
        return token[kept]


class _Draw:
    """Choose tokens from logits, as the settings say and with the numbers of each row.

    Attributes:
        finite: bool[B], as in `Sample`; looked at once, at the end, because each look waits for the accelerator.
    """

    def __init__(self, settings: SamplingSettings, uniforms: Tensor | None, rows: int, device: torch.device):
        self.finite = torch.ones(rows, dtype=torch.bool, device=device)
        self.temperature = settings.temperature
        self.uniforms = None if uniforms is None else uniforms.to(device)
        self.banned = torch.tensor(settings.banned_ids, device=device, dtype=torch.long)

    def __call__(self, logits: Tensor, rows: Tensor, column: int) -> Tensor:
        """int64[k]: one token for each row of logits float[k, V], which may be overwritten."""
        logits = logits.float()
        finite = logits.amax(dim=1).isfinite()  # −∞ beside a finite one is a probability of 0: fine
        self.finite[rows] &= finite
        # Zeros are drawn from without an error; the caller is told.
        logits = logits.masked_fill_(~finite.unsqueeze(1), 0.0).index_fill_(1, self.banned, float("-inf"))
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        return _invert_cdf(logits.div_(self.temperature), self.uniforms[:, column][rows])


def _cut(ids: Tensor, stop_ids: Tensor, pad_id: int) -> Sample:
    """End rows int64[B, T] with their first stop token, and the batch with its longest row."""
    stops = torch.isin(ids, stop_ids)
    mask = stops.cumsum(dim=1) - stops.long() == 0
    width = int(mask.sum(dim=1).max())
    return Sample(torch.where(mask, ids, pad_id)[:, :width], mask[:, :width])


def _invert_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """int64[B]: for each row the first token at which the cumulated probability exceeds `uniform` float[B].

    Where sums are rounded tree-wise, as on a GPU, neighbouring prefixes may come out of order by a last digit, and a
    token of probability 0 may get a width: never drawn.
    """
    probabilities = torch.softmax(logits, dim=-1)
    cumulated = probabilities.cumsum(dim=-1)
    total = cumulated[:, -1:]  # rounding leaves it a little beside 1
    token = torch.searchsorted(cumulated, uniform.unsqueeze(1) * total, right=True)
    # A uniform number may have been rounded to 1: at most the token that completes the sum.
    token = torch.minimum(token, torch.searchsorted(cumulated, total.contiguous()))
    possible = probabilities.gather(1, token) > 0
    if possible.device.type == "cpu" and bool(
        possible.all()
    ):  # elsewhere the question costs more than the answer
        return token.squeeze(1)
    return torch.where(possible, token, probabilities.argmax(dim=-1, keepdim=True)).squeeze(1)
