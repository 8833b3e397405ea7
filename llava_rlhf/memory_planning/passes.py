"""What one pass through a base holds at most besides its weights: images, scoring, training, sampling.

`B` rows of `L` positions, `N` tokens whose probability is asked for. All numbers are bytes.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_rlhf.functional.log_probs import head_log_probs
from llava_rlhf.memory_planning.bases import ONLY, BaseSpec, meta_bank, meta_model
from llava_rlhf.memory_planning.tracing import LiveBytes, at_depth, fake_weights
from models.decoding_cache import GROWTH, DecodingCache
from models.heads import ScalarHead
from models.packed_features import pack
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel

TRACED_CHUNKS = 3  # chunks of the vocabulary projection are alike


class Bank(NamedTuple):
    """A base with one adapter; `checkpointing`: whether training recomputes its layers."""

    base: BaseSpec
    lora: LoraSettings
    checkpointing: bool = False


class Head(NamedTuple):
    """What is asked of the final hidden states: log-probabilities of `tokens`, or as many numbers of a scalar head.

    `chunk` is tokens per vocabulary projection, 0 for a scalar head.
    """

    tokens: int
    chunk: int = 0
    entropy: bool = False


class Pass(NamedTuple):
    """Rows that go through a base together.

    Attributes:
        rows, length: B and L.
        head: what is asked.
        masked: attention needs a mask, because padding stands between what is read.
        autocast: the whole forward is inside accelerate's autocast.
    """

    rows: int
    length: int
    head: Head
    masked: bool = False
    autocast: bool = False


class TrainingBytes(NamedTuple):
    """Of a forward and backward pass, without the gradients of the weights.

    Attributes:
        peak: the most.
        saved: after the forward pass, what the backward pass needs.
        last_layer: the most when the backward pass is in the first layer.
    """

    peak: int
    saved: int
    last_layer: int

    def with_gradients(self, fresh: int) -> int:
        """The most when gradients of so many bytes appear while activations go, layer by layer.

        Either the beginning or the end is the most.
        """
        return max(self.peak, self.last_layer + fresh)


@lru_cache(maxsize=256)
def image_encoding(base: BaseSpec, images: int) -> int:
    """Encoding so many images, features included; nothing for rows of text alone."""
    if not images:
        return 0
    vision = base.llava.vision_config

    def measure(depth: int) -> tuple[int]:
        vlm = VisionLanguageModel(meta_model(base, 1, depth), base.dtype)
        with FakeTensorMode() as fakes:
            fake_weights(vlm)
            pixels = torch.empty(images, vision.num_channels, vision.image_size, vision.image_size)
            live = LiveBytes([*vlm.parameters(), *vlm.buffers(), pixels], fakes)
        with live:
            grids = [()] * images
            features = pack(vlm.encode_pictures(pixels, grids), grids)
            assert features.table.shape == (images * base.positions, base.hidden)
        return (live.peak,)

    return at_depth(measure, base.vision_layers, shallow=2)[0]  # features are those of the last layer but one


@lru_cache(maxsize=256)
def scoring(bank: Bank, work: Pass) -> int:
    """A pass without gradients."""

    def measure(depth: int) -> tuple[int]:
        traced = _traced(bank, depth)
        with traced.count() as live, torch.no_grad():
            traced.forward(work, training=False)
        return (live.peak,)

    return at_depth(measure, bank.base.layers)[0] + dequantised(bank.base)


@lru_cache(maxsize=256)
def training(bank: Bank, work: Pass) -> TrainingBytes:
    """A forward and a backward pass."""

    @lru_cache
    def measure(depth: int) -> tuple[int, int]:
        traced = _traced(bank, depth)
        with traced.count() as live:
            result = traced.forward(work, training=True)
            saved = live.live
            result.backward()
        return live.peak, saved

    peak, saved = at_depth(measure, bank.base.layers)
    unpacked = dequantised(bank.base)
    return TrainingBytes(peak + unpacked, saved, at_depth(measure, 1)[0] + unpacked)


@lru_cache(maxsize=256)
def prefill(bank: Bank, rows: int, length: int, merge: bool) -> int:
    """Reading prompts int64[B, L] before the first token is drawn, with key/value cache and what stands in for adapters.

    `merge`: this is a copy of the base's weights; never so with a quantised base.
    """
    merge = merge and not bank.base.quantised

    def measure(depth: int) -> tuple[int]:
        traced = _traced(bank, depth)
        with traced.count() as live, traced.bank.use_for_sampling(ONLY, merge):
            traced.hidden_states(rows, length, masked=True, cache=DecodingCache())
        return (live.peak,)

    return at_depth(measure, bank.base.layers)[0] + dequantised(bank.base)


@lru_cache(maxsize=256)
def decoding(bank: Bank, rows: int, prompt: int, response: int, merge: bool) -> int:
    """The last tokens of responses that are all of full length; what is included is that of `prefill`."""
    merge = merge and not bank.base.quantised
    base = bank.base
    columns = prompt + GROWTH
    while columns < prompt + response - 1:  # the last token is not put into the cache
        columns += 1 + GROWTH

    def measure(depth: int) -> tuple[int]:
        traced = _traced(bank, depth)
        with traced.count() as live, traced.bank.use_for_sampling(ONLY, merge):
            kept = DecodingCache()
            heads, channels = base.cached_heads
            shape = (rows, heads, columns - GROWTH, channels)
            for layer in range(depth):
                past = torch.empty(1, dtype=base.dtype).expand(shape)
                kept.update(past, past, layer)
            traced.hidden_states(rows, 1, masked=False, cache=kept)
        return (live.peak,)

    before_growth = 0 if response <= GROWTH else rows * (columns - 1 - GROWTH) * base.cache_width
    return at_depth(measure, base.layers)[0] + before_growth * base.dtype.itemsize + dequantised(base)


def dequantised(base: BaseSpec) -> int:
    """The one weight of a quantised base that is unpacked at a time."""
    if not base.quantised:
        return 0
    text = base.llava.get_text_config()
    return text.hidden_size * text.intermediate_size * base.dtype.itemsize


@lru_cache(maxsize=8)
def _traced(bank: Bank, depth: int) -> _TracedBank:
    return _TracedBank(bank, depth)


class _TracedBank:
    """A base without contents, cut to `depth` layers, with its adapter, a scalar head, and gradients that are there."""

    def __init__(self, bank: Bank, depth: int):
        self.dtype = bank.base.dtype
        self.bank = meta_bank(bank.base, bank.lora, depth, bank.checkpointing)
        with torch.device("meta"):
            self.head = ScalarHead(bank.base.hidden)
        modules = nn.ModuleList([self.bank, self.head])
        with FakeTensorMode() as self._fakes:
            fake_weights(modules)
            self._known = [*modules.parameters(), *modules.buffers()]
            for weight in modules.parameters():
                if weight.requires_grad:
                    weight.grad = torch.empty_like(weight)
                    self._known.append(weight.grad)

    def count(self) -> LiveBytes:
        """A context to run in, which counts all tensors but those of this object."""
        return LiveBytes(self._known, self._fakes)

    def forward(self, work: Pass, training: bool) -> Tensor:
        """To the sum of the numbers that are asked for."""
        in_autocast = work.autocast and self.dtype != torch.float32
        with torch.autocast("cpu", self.dtype) if in_autocast else nullcontext():
            with self.bank.use(ONLY, training):
                hidden = self.hidden_states(work.rows, work.length, work.masked)
            some = torch.arange(work.head.tokens)
            states = hidden.flatten(0, 1)[some]
            return self._log_probs(states[some], work.head) if work.head.chunk else self.head(states).sum()

    def hidden_states(
        self, rows: int, length: int, masked: bool, cache: DecodingCache | None = None
    ) -> Tensor:
        """`VisionLanguageModel.forward`: embeddings with one image a row, layers, norm.

        Written out, because tensors without contents can't be asked where their images are or whether they are padded.
        The features that are put in are the caller's: they do not count.
        """
        vlm, model = self.bank.vlm, self.bank.vlm.language_model
        ids = torch.empty(rows, length, dtype=torch.long)
        places = torch.empty(rows, length, 1, dtype=torch.bool)
        positions = len(vlm.family.placeholder(()))
        features = torch.empty(1, dtype=self.dtype).expand(rows * positions, vlm.hidden_size)
        hidden = vlm.model.get_input_embeddings()(ids)
        hidden = hidden.masked_scatter(places, features.to(hidden.dtype))
        positions = torch.arange(length).unsqueeze(0)
        mask = torch.empty(rows, 1, length, length, dtype=torch.bool) if masked else None
        rotary = model.rotary_emb(hidden, positions)
        for layer in model.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                position_embeddings=rotary,
            )
        return model.norm(hidden)

    def _log_probs(self, states: Tensor, head: Head) -> Tensor:
        """Their sum over states float[N, D]; behind the first chunks a product that makes as large a gradient."""
        first = min(TRACED_CHUNKS * head.chunk, head.tokens)
        traced, others = states.split([first, head.tokens - first])
        ids = torch.empty(first, dtype=torch.long)
        numbers = (1.0, head.chunk, head.entropy, ids[:1])
        log_probs, _ = head_log_probs(traced, ids, self.bank.vlm.project, *numbers)
        weight = torch.empty(1, dtype=others.dtype).expand(others.shape[1])
        return log_probs.sum() + (others @ weight).sum()
