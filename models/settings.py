"""Where LoRA may go, the shape of a new adapter, names of number formats. Loads no torch, so that a program can show its flags without it."""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGE_MODEL_LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NO_ADAPTER = "(none)"  # no layer has one of this name, so none is applied
DTYPE_NAMES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoraSettings:
    """Shape of a new adapter (arXiv 2106.09685): rank, scale numerator (scale = alpha / r), dropout, layers."""

    r: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    layers: tuple[str, ...] = LANGUAGE_MODEL_LINEAR_LAYERS
