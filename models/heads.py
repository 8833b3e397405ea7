"""Hidden state → one number: heads of reward and value models, and their files."""

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
from models.divided_weights import check_whole

LINEAR, MLP = "linear", "mlp"


class _WideLinear(nn.Linear):
    """A linear layer that computes in float32 or float64, whatever its weights and its input are kept in."""

    def forward(self, numbers: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """[..., out] in `dtype` of float[..., in]."""
        # DeepSpeed casts every parameter to the training dtype: compute in float32 all the same.
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        with torch.autocast(numbers.device.type, enabled=False):
            return functional.linear(numbers.to(dtype), weight, bias)


class Head(nn.Module):
    """What heads have in common: a kind, a hidden size D, and a file that says both by its names and shapes."""

    kind: str

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size

    @property
    def _stored(self) -> nn.Module:
        """Whose weights are written, under their names there."""
        return self

    def save(self, path: str | Path) -> None:
        """Write the tensors of `head_shapes` as safetensors. Raises RuntimeError where they are divided and not whole."""
        check_whole(self.parameters())
        save_safetensors(self._stored.state_dict(), path)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote. Raises ValueError for another width or kind, or a file that is no head."""
        state = load_file(path, device="cpu")
        names = list(head_shapes(self.kind, self.hidden_size))
        if state.keys() != set(names):
            raise ValueError(
                f"{path} is not a head: it holds {', '.join(sorted(state)[:3])}, not {' and '.join(names)}"
            )
        width = state[names[0]].shape[-1]
        if width != self.hidden_size:
            raise ValueError(f"{path} is a head for hidden size {width}, the model has {self.hidden_size}")
        self._stored.load_state_dict(state)


class ScalarHead(Head):
    """w · h + b in float32 (arXiv 2309.14525, section 2).

    Args:
        hidden_size: D.
        zero: start at exactly 0 (value heads), else w ~ N(0, 1/(D+1)) and b = 0 (reward heads).
    """

    kind = LINEAR

    def __init__(self, hidden_size: int, zero: bool = False):
        super().__init__(hidden_size)
        self.linear = _WideLinear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.bias)
        if zero:
            nn.init.zeros_(self.linear.weight)
        else:
            nn.init.normal_(self.linear.weight, std=1 / math.sqrt(hidden_size + 1))

    def forward(self, hidden: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """float32[...] scores of hidden states float[..., D], computed in `dtype`."""
        return self.linear(hidden, dtype).squeeze(-1).float()

    @property
    def _stored(self) -> nn.Module:
        return self.linear


class MLPHead(Head):
    """w · silu(W h + c) + b in float32, W square; silu(x) = x / (1 + e^−x).

    Every weight starts as that of a linear reward head: W, w ~ N(0, 1/(D+1)), c = 0, b = 0.

    Args:
        hidden_size: D.
    """

    kind = MLP

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size)
        self.hidden = _WideLinear(hidden_size, hidden_size, dtype=torch.float32)
        self.output = _WideLinear(hidden_size, 1, dtype=torch.float32)
        for layer in (self.hidden, self.output):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(hidden_size + 1))
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """float32[...] scores of hidden states float[..., D], computed in `dtype`."""
        return self.output(functional.silu(self.hidden(hidden, dtype)), dtype).squeeze(-1).float()


def new_head(kind: str, hidden_size: int) -> Head:
    """A reward head that is not trained yet, `kind` LINEAR or MLP."""
    return {LINEAR: ScalarHead, MLP: MLPHead}[kind](hidden_size)


def read_head(path: str | Path, hidden_size: int) -> Head:
    """The head in a file, of whichever kind it is. Raises ValueError as `Head.load` does."""
    kind = _kind_of(_read_shapes(path)) or LINEAR  # what is of no kind `load` refuses
    head = new_head(kind, hidden_size)
    head.load(path)
    return head


def head_shapes(kind: str, hidden_size: int) -> dict[str, list[int]]:
    """Tensors of a head and their shapes, under the names that its file has for them."""
    last = {"weight": [1, hidden_size], "bias": [1]}
    if kind == LINEAR:
        return last
    first = {"hidden.weight": [hidden_size, hidden_size], "hidden.bias": [hidden_size]}
    return first | {f"output.{name}": shape for name, shape in last.items()}


def check_head_fits(path: str | Path, base: str | Path, kind: str = LINEAR) -> None:
    """Compare a head with a base, and with the kind that its reward model's card names, by the file's header only.

    Raises:
        ValueError: the file is no head (or cut off), or one of another kind or for another hidden size.
    """
    shapes = _read_shapes(path)
    found = _kind_of(shapes)
    if found not in (None, kind):
        raise ValueError(
            f"{path} holds a head of kind {found}, where reward_model.json beside it says {kind}; take both files from one "
            "run of train_reward_model"
        )
    width = read_layer_sizes(base).hidden_size
    expected = head_shapes(kind, width)
    if shapes != expected:
        raise ValueError(
            f"{path} holds {shapes}, a head for {base} (hidden size {width}) holds {expected}; it is no head, or was "
            "trained on another base"
        )


def _read_shapes(path: str | Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing, cut off or no safetensors file ({error})") from error


def _kind_of(shapes: dict[str, list[int]]) -> str | None:
    """The kind of head that has tensors of these names; None: no head has."""
    kinds = (kind for kind in (LINEAR, MLP) if head_shapes(kind, 0).keys() == shapes.keys())
    return next(kinds, None)
