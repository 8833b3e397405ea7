"""Products with frozen weights on a CPU, by the faster one of the two libraries that PyTorch brings.

PyTorch gives float32 products to MKL, which on processors of other makers than its own does without AVX-512: oneDNN takes
half the time there (measured on an AMD EPYC: 113 against 240 GFLOP/s), forward and backward.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import linear, pad

Model = TypeVar("Model", bound=nn.Module)

# Multiply-adds from which on oneDNN is asked: below, what it costs to call (and, for every new shape, to compile) counts.
ENOUGH_WORK = 2**22
# Batches that are scored are of ever other sizes. oneDNN compiles a kernel for each and keeps it, 0.4 to 1.6 MiB: so it is asked
# for few sizes, and not for weights of so few numbers, where that takes as long as it saves (64 × 128: 0.96 against 0.99 ms a
# row). In training, where batches are large and of few sizes, it saves more.
SMALL_WEIGHT = 2**13
WIDE = 6  # outputs to an input from which on it makes logits: they come in chunks of one size, and more rows would take memory
# The operator that `torch.compile` puts in the place of a linear layer; all else that PyTorch offers of oneDNN's products
# takes tensors that have been converted before.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class FrozenLinear(nn.Linear):
    """x Wᵀ + b with weights that do not train."""

    def forward(self, x: Tensor) -> Tensor:
        """float[..., in] → float[..., out]."""
        return frozen_linear(x, self.weight, self.bias)


def use_frozen_products(model: Model) -> Model:
    """Let the plain linear layers of a frozen model compute by `frozen_linear`; returns the model."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
    return model


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b: float[..., in] → float[..., out], differentiable once in `x`, and in the weights as long as they train."""
    trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    if trains or not _goes_to_onednn(x, weight):
        return linear(x, weight, bias)
    if x.requires_grad and torch.is_grad_enabled():
        return _Product.apply(x, weight, bias)
    if weight.numel() <= SMALL_WEIGHT:
        return linear(x, weight, bias)
    if len(weight) > WIDE * x.shape[-1]:
        return _onednn_product(x, weight, bias)
    rows = x.shape[:-1]
    count = rows.numel()
    padded = pad(x.reshape(count, -1), (0, 0, 0, few_sizes(count) - count))
    return _onednn_product(padded, weight, bias)[:count].view(*rows, -1)


def few_sizes(count: int) -> int:
    """The next of eight sizes to every doubling, at most an eighth larger: …, 15, 16, 18, 20, …, 30, 32, 36, …"""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


def _goes_to_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= ENOUGH_WORK
        and HAS_ONEDNN
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn_product(gradient, weight.t(), None), None, None
