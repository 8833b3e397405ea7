"""Hidden state → one number."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from models.adapter_files import save_safetensors
from models.adapter_shapes import read_layer_sizes


class ScalarHead(nn.Module):
    """w · h + b in float32.

    Args:
        hidden_size: D.
        zero: start at exactly 0 (value heads), else w ~ N(0, 1/(D+1)) and b = 0 (reward heads).
    """

    def __init__(self, hidden_size: int, zero: bool = False):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.bias)
        if zero:
            nn.init.zeros_(self.linear.weight)
        else:
            nn.init.normal_(self.linear.weight, std=1 / math.sqrt(hidden_size + 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """float32[...] scores of hidden states float[..., D]."""
        # DeepSpeed casts every parameter to the training dtype: compute in float32 all the same.
        weight, bias = self.linear.weight.float(), self.linear.bias.float()
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.float(), weight, bias).squeeze(-1)

    def save(self, path: str | Path) -> None:
        """Write `weight` [1, D] and `bias` [1] as safetensors."""
        save_safetensors(self.linear.state_dict(), path)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote. Raises ValueError for a head of another width or a file that is no head."""
        state = load_file(path, device="cpu")
        if state.keys() != {"weight", "bias"}:
            raise ValueError(
                f"{path} is not a head: it holds {', '.join(sorted(state)[:3])}, not weight and bias"
            )
        width = state["weight"].shape[-1]
        if width != self.linear.in_features:
            raise ValueError(
                f"{path} is a head for hidden size {width}, the model has {self.linear.in_features}"
            )
        self.linear.load_state_dict(state)


def check_head_fits(path: str | Path, base: str | Path) -> None:
    """Compare a head with a base by the file's header only.

    Raises:
        ValueError: the file is no head (or cut off), or one for another hidden size.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing, cut off or no safetensors file ({error})") from error
    width = read_layer_sizes(base).hidden_size
    expected = {"weight": [1, width], "bias": [1]}
    if shapes != expected:
        raise ValueError(
            f"{path} holds {shapes}, a head for {base} (hidden size {width}) holds {expected}; it is no head, or was "
            "trained on another base"
        )
