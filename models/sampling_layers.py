"""Stand-ins for LoRA layers while answers are sampled: the same function, in fewer and cheaper operations.

Decoding multiplies a handful of rows at a time, so that what PEFT does around a product costs more than the product.
Layers are exchanged, never written to: the weights of the base and of every adapter keep their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from models.matrix_products import FrozenLinear, frozen_linear


class LoraPlace(NamedTuple):
    """Where a LoRA layer stands: attribute `name` of `parent`."""

    parent: nn.Module
    name: str
    layer: LoraLayer


def lora_places(model: nn.Module) -> list[LoraPlace]:
    """All LoRA layers of a model."""
    return [
        LoraPlace(parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, LoraLayer)
    ]


@contextmanager
def stand_ins(places: Sequence[LoraPlace], adapter: str, merge: bool, dtype: torch.dtype) -> Iterator[None]:
    """Exchange LoRA layers for the time of the context, in which the model is in eval mode and does not train.

    Args:
        places: of the LoRA layers.
        adapter: the one that is in use.
        merge: add it to the base's weights, in a second copy of them. Quantised weights would have to be unpacked for
            that, into many times the memory that they were quantised to save: there it is always applied beside them.
        dtype: that of the activations.
    """
    device = places[0].layer.get_base_layer().weight.device.type
    try:
        # Autocast would round the sums to `dtype` before they are made.
        with torch.no_grad(), torch.autocast(device, enabled=False):
            for parent, name, layer in places:
                if _is_plain(layer, adapter):
                    setattr(parent, name, _stand_in(layer, adapter, merge, dtype))
        yield
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)


def _is_plain(layer: LoraLayer, adapter: str) -> bool:
    """Whether it computes W x + s B A x (not DoRA or another variant, no bias of its own, no embedding)."""
    linear_base = isinstance(layer.get_base_layer(), nn.Linear)
    return linear_base and adapter not in layer.lora_variant and not layer.lora_bias.get(adapter, False)


def _stand_in(layer: LoraLayer, adapter: str, merge: bool, dtype: torch.dtype) -> nn.Module:
    base = layer.get_base_layer()
    if adapter not in layer.lora_A:
        return base
    down, up, scale = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, layer.scaling[adapter]
    if merge and isinstance(base, FrozenLinear):
        weight = torch.addmm(base.weight.float(), up.float(), down.float(), alpha=scale)
        return _Merged(weight.to(base.weight.dtype), base.bias)
    return _Beside(base, down.to(dtype), (up * scale).to(dtype))


class _Merged(nn.Module):
    """(W + s B A) x + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return frozen_linear(x, self.weight, self.bias)


class _Beside(nn.Module):
    """W x + b + (s B) A x, with W in whatever form the base keeps it."""

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor):
        super().__init__()
        self.base, self.down, self.up = base, down, up.t()

    def forward(self, x: Tensor) -> Tensor:
        result, low = self.base(x), linear(x, self.down)
        return torch.addmm(result.flatten(0, -2), low.flatten(0, -2), self.up).view_as(result)
