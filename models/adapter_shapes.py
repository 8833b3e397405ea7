"""Which tensors a LoRA adapter must hold on a base, by name and shape. Reads no weights.

Two for each adapted linear layer: A [r, inputs] and B [outputs, r], applied as B·A·x · alpha / r (arXiv 2106.09685).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.base_files import read_family
from models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SHOWN_KEYS = 6  # of each kind in an error
Shape = tuple[int | None, ...]  # None is any size
_MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LayerSizes:
    """Shape of a base's language model.

    Attributes:
        base: the directory, for messages.
        layers: number of transformer layers.
        widths: name of a linear layer → (inputs, outputs).
        family: of the base.
    """

    base: str
    layers: int
    widths: Mapping[str, tuple[int, int]]
    family: type[Family] = Family

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that heads read."""
        return self.widths["q_proj"][0]

    def __str__(self) -> str:
        return f"{self.base} ({self.layers} layers, hidden size {self.hidden_size})"


def read_layer_sizes(base: str | Path) -> LayerSizes:
    """Read `LayerSizes` from `config.json`. Raises ValueError for a directory that is not a LLaVA base."""
    family = read_family(base)
    return replace(layer_sizes(base, family.config.get_text_config()), family=type(family))


def layer_sizes(base: str | Path, text: PreTrainedConfig) -> LayerSizes:
    """`LayerSizes` of the language model that `text` describes."""
    hidden, inner = text.hidden_size, text.intermediate_size
    head = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    queries, keys = head * text.num_attention_heads, head * text.num_key_value_heads
    widths = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    return LayerSizes(str(base), text.num_hidden_layers, widths)


def module_name(layer: int, name: str) -> str:
    """A linear layer's name within the transformer layers, such as `0.mlp.up_proj`."""
    return f"{layer}.{'mlp' if name in _MLP else 'self_attn'}.{name}"


def lora_shapes(linear: str, rank: int | None, widths: tuple[int | None, int | None]) -> dict[str, Shape]:
    """Name → shape of the two tensors of one linear layer. Args: its full name, r, (inputs, outputs)."""
    inputs, outputs = widths
    return {f"{linear}.lora_A.weight": (rank, inputs), f"{linear}.lora_B.weight": (outputs, rank)}


def differences(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, Shape]) -> str:
    """What an adapter's tensors lack, have too much or have in another shape, in words; empty when they fit."""
    misshapen = [
        f"{name} is {list(found[name])}, should be {[size or 'any' for size in expected[name]]}"
        for name in expected.keys() & found.keys()
        if not _matches(found[name], expected[name])
    ]
    problems = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": misshapen,
    }
    return "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names)


def listed(names: Iterable[str]) -> str:
    """The first names in natural order, and how many more there are."""
    ordered = sorted(names, key=natural_order)
    more = f" and {len(ordered) - SHOWN_KEYS} more" if len(ordered) > SHOWN_KEYS else ""
    return ", ".join(ordered[:SHOWN_KEYS]) + more


def natural_order(name: str) -> list[str | int]:
    """Sort key that puts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _matches(shape: tuple[int, ...], expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )
