"""What bitsandbytes layers need so that they can be sampled from and trained in turn."""

from __future__ import annotations

from torch import nn


def compute_alike_in_both_modes(model: nn.Module) -> None:
    """Let quantised layers compute in eval mode what they compute in train mode: what is sampled is what is trained.

    On a CPU bitsandbytes goes by the mode. 4-bit weights are repacked in place at the first forward in eval mode (with
    AVX512-BF16): rounded, for good, and into a product without gradient, so whoever samples first and trains afterwards
    gets wrong gradients without any error. 8-bit layers round their inputs to 8 bits too, but only in eval mode.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt  # only quantised bases need the package

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt):
            module.register_forward_pre_hook(_pretend_training)


def _pretend_training(module: nn.Module, inputs: tuple) -> None:
    module.training = True
