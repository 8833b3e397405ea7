"""What one pass through a base holds at most besides its weights: images, scoring, training, sampling.

`B` rows of `L` positions, `N` tokens whose probability is asked for. All numbers are bytes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_rlhf.functional.log_probs import head_log_probs
from llava_rlhf.memory_planning.bases import ONLY, BaseSpec, meta_bank, meta_model
from llava_rlhf.memory_planning.tracing import KnownContents, LiveBytes, at_depth, fake_weights
from models.decoding_cache import GROWTH, DecodingCache
from models.heads import LINEAR, new_head
from models.packed_features import pack
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel

TRACED_CHUNKS = 3  # chunks of the vocabulary projection are alike


class Bank(NamedTuple):
    """A base with one adapter and a head; `checkpointing`: whether training recomputes its layers."""

    base: BaseSpec
    lora: LoraSettings
    checkpointing: bool = False
    head: str = LINEAR

    @property
    def shallow(self) -> int:
        """Layers from which on all are alike, and what each kind of them needs is there."""
        return max(1 + self.base.deeper, self.base.family.layer_kinds)


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


def image_encoding(base: BaseSpec, images: int) -> int:
    """Encoding so many images, features included; nothing for rows of text alone."""
    # Nothing that is made of one serves another; towers are never quantised.
    return images * picture_encoding(replace(base, name="", bits=16)) if images else 0


@lru_cache(maxsize=64)
def picture_encoding(base: BaseSpec) -> int:
    """Encoding one picture, features included."""
    # Features are those of the last layer but one, or of as many as there are `deeper` ones besides.
    shallow, picture = max(2, 1 + base.deeper), base.cut_picture

    def measure(depth: int) -> tuple[int]:
        vlm = VisionLanguageModel(meta_model(base, 1, depth), base.dtype)
        with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
            fake_weights(vlm)
            pixels = torch.empty(picture.pixels)
            live = LiveBytes([*vlm.parameters(), *vlm.buffers(), pixels], fakes)
        with live, KnownContents():
            grids = [picture.grid]
            features = pack(vlm.encode_pictures(pixels, grids), grids)
            assert features.table.shape == (base.features, vlm.family.feature_width)
        return (live.peak,)

    return at_depth(measure, base.vision_layers, shallow)[0]


@lru_cache(maxsize=256)
def scoring(bank: Bank, work: Pass) -> int:
    """A pass without gradients."""

    def measure(depth: int) -> tuple[int]:
        traced = _traced(bank, depth)
        with traced.count() as live, torch.no_grad():
            traced.forward(work, training=False)
        return (live.peak,)

    return at_depth(measure, bank.base.layers, bank.shallow)[0] + dequantised(bank.base)


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

    peak, saved = at_depth(measure, bank.base.layers, bank.shallow)
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

    return at_depth(measure, bank.base.layers, bank.shallow)[0] + dequantised(bank.base)


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
    return (
        at_depth(measure, base.layers, bank.shallow)[0]
        + before_growth * base.dtype.itemsize
        + dequantised(base)
    )


def dequantised(base: BaseSpec) -> int:
    """The one weight of a quantised base that is unpacked at a time."""
    if not base.quantised:
        return 0
    text = base.configuration.get_text_config()
    return text.hidden_size * text.intermediate_size * base.dtype.itemsize


@lru_cache(maxsize=8)
def _traced(bank: Bank, depth: int) -> _TracedBank:
    return _TracedBank(bank, depth)


class _TracedBank:
    """A base without contents, cut to `depth` layers, with its adapter, a scalar head, and gradients that are there."""

    def __init__(self, bank: Bank, depth: int):
        self.base, self.dtype, self.picture = bank.base, bank.base.dtype, bank.base.cut_picture
        self.bank = meta_bank(bank.base, bank.lora, depth, bank.checkpointing)
        with torch.device("meta"):
            self.head = new_head(bank.head, bank.base.hidden)
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
        vlm, model, prompts = self.bank.vlm, self.bank.vlm.language_model, length > 1
        ids = torch.empty(rows, length, dtype=torch.long)
        places = torch.empty(rows, length, 1, dtype=torch.bool)
        features = torch.empty(1, dtype=self.dtype).expand(rows * self.base.features, vlm.hidden_size)
        hidden = vlm.model.get_input_embeddings()(ids)
        hidden = hidden.masked_scatter(places, features.to(hidden.dtype))
        positions = torch.arange(length).unsqueeze(0)
        if prompts and vlm.family.place(self.picture.grid) is not None:
            positions = torch.empty(3, rows, length, dtype=torch.long)
        mask = torch.empty(rows, 1, length, length, dtype=torch.bool) if masked else None
        inputs = vlm.family.layer_inputs(model, hidden, positions, mask)
        for number, layer in enumerate(model.layers):
            # What a model binds to a name lives as long as the next layer runs.
            output = layer(
                hidden,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                **inputs[number % len(inputs)],  # all kinds take the same room, whichever layer is of which
            )
            hidden = _with_features(output, features) if prompts and number < self.base.deeper else output
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


def _with_features(hidden: Tensor, features: Tensor) -> Tensor:
    """Hidden states [B, L, D] with features [N, D] added at the places of images."""
    places = torch.empty(len(features), dtype=torch.long), torch.empty(len(features), dtype=torch.long)
    hidden = hidden.clone()
    hidden[places] = hidden[places] + features
    return hidden
