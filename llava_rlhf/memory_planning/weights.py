"""Bytes of what is held all the time: base, adapters, optimizer, and what DDP and ZeRO keep of them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from llava_rlhf.memory_planning.bases import BaseSpec, weight_shapes
from llava_rlhf.memory_planning.plan import Part
from models.heads import head_shapes
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings

FLOAT = 4  # bytes; adapters, heads, gradients and moments are float32
QUANTISED = re.compile(rf"\.({'|'.join(LANGUAGE_MODEL_LINEAR_LAYERS)})\.weight$")
BLOCK_4BIT, BLOCK_OF_CONSTANTS, BLOCK_8BIT_STATE = 64, 256, 256  # bitsandbytes: numbers that share a constant
SMALL_STATE = 4096  # tensors below keep float32 moments in 8-bit optimizers
PAGED_STATE = 100_000  # numbers from which on paged optimizers page a tensor


class Zero(NamedTuple):
    """What matters of a DeepSpeed configuration: stage, and numbers in a bucket, live at once, and fetched ahead."""

    stage: int
    reduce_bucket: int
    overlap: bool
    live: int = 0


@dataclass(frozen=True)
class Trained:
    """The trained weights of one process, and who else trains them.

    Attributes:
        groups: numbers in each weight, for each parameter group of the optimizer.
        optim: name of the optimizer.
        dtype: of activations.
        processes: how many train together.
        zero: how they share the work; None: every process holds everything.
        ddp: whether DDP exchanges the gradients, whose buckets are a second copy of them.
        gpu: on a GPU optimizers go through all weights at once, on a CPU one by one.
    """

    groups: tuple[tuple[int, ...], ...]
    optim: str
    dtype: torch.dtype
    processes: int = 1
    zero: Zero | None = None
    ddp: bool = False
    gpu: bool = True

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(map(sum, self.groups))

    @property
    def gradients(self) -> int:
        """Bytes of the gradients that micro-batches add up in."""
        if self.zero is None:
            return self.numbers * FLOAT
        if self.zero.stage == 3:  # in `held`
            return 0
        return (self._share if self.zero.stage == 2 else self.numbers) * self.dtype.itemsize

    @property
    def fresh_gradients(self) -> int:
        """Bytes of the gradients that one backward pass makes."""
        return self.numbers * FLOAT if self.zero is None else 0  # ZeRO: in its bucket

    @property
    def buckets(self) -> int:
        """Bytes through which ZeRO-2 gives gradients away, there during a backward pass."""
        if self.zero is None or self.zero.stage == 3:
            return 0
        return self.zero.reduce_bucket * (1 + self.zero.overlap) * self.dtype.itemsize

    def held(self) -> tuple[Part, ...]:
        """What the optimizer keeps, and what DDP or ZeRO do."""
        zero, share = self.zero, self._share
        groups = [[math.ceil(sum(group) / self.processes)] for group in self.groups] if zero else self.groups
        parts = [Part(f"moments of {self.optim}", optimizer_bytes(self.optim, groups))]
        if zero is not None:
            parts.append(Part("float32 copy of the trained weights (ZeRO)", share * FLOAT))
        if zero is not None and zero.stage == 3:
            numbers = share + zero.reduce_bucket
            parts.append(Part("gradients and their bucket (ZeRO)", numbers * self.dtype.itemsize))
        if zero is None and self.ddp and self.processes > 1:
            parts.append(Part("gradient buckets of DDP", self.numbers * FLOAT))
        return tuple(parts)

    def step(self) -> int:
        """Bytes of an optimizer step: gradients, and what the update itself needs."""
        if self.zero is not None:
            return self._share * (FLOAT + self.dtype.itemsize)
        if self.optim != "adamw_torch":  # fused kernels, here and in bitsandbytes
            return self.gradients
        largest = max(map(sum, self.groups)) if self.gpu else max(map(max, self.groups))
        return self.gradients + largest * FLOAT  # the denominator

    @property
    def _share(self) -> int:
        return math.ceil(self.numbers / self.processes)


def base_parts(base: BaseSpec, processes: int = 1) -> tuple[Part, ...]:
    """The base's weights as they are loaded; ZeRO-3 cuts them into as many shares as there are `processes`."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for name, (shape, count) in weight_shapes(base).items():
        if name.startswith(tuple(base.family.towers.values())):
            sizes["vision tower and projector"] += count * shape.numel() * base.dtype.itemsize
        elif base.quantised and QUANTISED.search(name):
            sizes[f"linear layers at {base.bits} bits"] += count * quantised_bytes(shape, base)
        else:
            kind = "linear layers" if QUANTISED.search(name) else "embeddings, vocabulary head, norms"
            sizes[kind] += count * shape.numel() * base.dtype.itemsize
    return tuple(Part(f"{base.name}: {kind}", math.ceil(size / processes)) for kind, size in sizes.items())


def shares_of(zero: Zero | None, processes: int) -> int:
    """Into how many parts all weights are divided, the frozen ones too."""
    return processes if zero is not None and zero.stage == 3 else 1


def merged_bytes(base: BaseSpec, lora: LoraSettings) -> int:
    """A copy of the layers that have an adapter, as `AdapterBank.use_for_sampling` makes it."""
    layers = re.compile(rf"{base.family.lora_pattern(lora.layers)}\.weight")
    weights = weight_shapes(base).items()
    numbers = sum(shape.numel() * count for name, (shape, count) in weights if layers.fullmatch(name))
    return numbers * base.dtype.itemsize


def quantised_bytes(shape: torch.Size, base: BaseSpec) -> int:
    """One linear layer [out, in] as bitsandbytes keeps it: QLoRA's blocks of 64 (arXiv 2305.14314), or LLM.int8's rows."""
    numbers = shape.numel()
    if base.bits == 8:
        return numbers + shape[0] * FLOAT
    blocks = math.ceil(numbers / BLOCK_4BIT)
    codebook = 16 * FLOAT
    if not base.double_quant:
        return math.ceil(numbers / 2) + blocks * FLOAT + codebook
    constants = blocks + math.ceil(blocks / BLOCK_OF_CONSTANTS) * FLOAT + FLOAT + 256 * FLOAT
    return math.ceil(numbers / 2) + constants + codebook


def adapter_numbers(base: BaseSpec, lora: LoraSettings) -> tuple[int, ...]:
    """Numbers in each weight of one adapter."""
    return tuple(shape.numel() for shape, count in weight_shapes(base, lora).values() for _ in range(count))


def head_numbers(kind: str, base: BaseSpec) -> tuple[int, ...]:
    """Numbers in each weight of a head."""
    return tuple(map(math.prod, head_shapes(kind, base.hidden).values()))


def optimizer_bytes(optim: str, groups: Sequence[Sequence[int]]) -> int:
    """Two Adam moments for weights of so many numbers each: float32, or 8 bits and a constant for each block."""
    eight_bits = optim.endswith("8bit")
    total = 0
    for numbers in (numbers for group in groups for numbers in group):
        if eight_bits and numbers >= SMALL_STATE:
            total += 2 * (numbers + math.ceil(numbers / BLOCK_8BIT_STATE) * FLOAT)
        else:
            total += 2 * numbers * FLOAT
    return total


def paged_bytes(optim: str, groups: Sequence[Sequence[int]]) -> int:
    """The part of the moments that a paged optimizer lets the driver move to the host when the GPU is full."""
    if not optim.startswith("paged_"):
        return 0
    return optimizer_bytes(optim, [[n for n in group if n >= PAGED_STATE] for group in groups])


def gathered_parts(bases: Sequence[BaseSpec], zero: Zero | None, kept: bool = False) -> tuple[Part, ...]:
    """Weights of other processes that ZeRO-3 fetches to work with: at least the largest one is whole.

    `kept`: until the optimizer step none of them is let go.
    """
    if zero is None or zero.stage < 3:
        return ()
    weights = [weight for base in bases for weight in weight_shapes(base).values()]
    numbers = sum(shape.numel() * count for shape, count in weights)
    live = max(zero.live, max(shape.numel() for shape, _ in weights))
    size = numbers if kept else min(live, numbers)
    return (Part("weights fetched for use (ZeRO-3)", size * bases[0].dtype.itemsize),)
