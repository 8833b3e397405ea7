"""Bytes that a computation holds at most, counted on tensors without contents.

The real layers run forward and backward under `FakeTensorMode`: shapes and number formats are those of the run, no memory
is taken. What a kernel allocates for itself, inside one operation, is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations inside this context make, as long as something refers to them.

    Args:
        known: tensors that exist already and do not count (weights); what operations write into them doesn't either.
        fakes: the mode that their contents are missing in, entered with this one; None for real tensors.

    Attributes:
        live: bytes now. peak: the most there were.
    """

    def __init__(self, known: Iterable[Tensor] = (), fakes: FakeTensorMode | None = None):
        super().__init__()
        self._fakes = fakes
        self.live = self.peak = 0
        self._known = list(known)  # kept alive, so that their addresses stay theirs
        self._storages = {tensor.untyped_storage()._cdata for tensor in self._known}

    def __enter__(self) -> LiveBytes:
        """Begin to count."""
        if self._fakes is not None:
            self._fakes.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Stop counting; what was counted is still let go of."""
        super().__exit__(*exception)
        if self._fakes is not None:
            self._fakes.__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run one operation, and count the storages it made."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            return
        self._storages.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes()).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size


class KnownContents(TorchDispatchMode):
    """Operations on real tensors alone keep their contents inside this context, a `FakeTensorMode` notwithstanding.

    How a picture is cut up decides what a tower does, and so is never without contents; pixels and weights are.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run one operation."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **(kwargs or {}))
        with unset_fake_temporarily():
            return func(*args, **(kwargs or {}))


def fake_weights(model: nn.Module) -> None:
    """Replace the weights and buffers of a model on the meta device by fake ones on the CPU, under `FakeTensorMode`."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def at_depth(measure: Callable[[int], Sequence[int]], layers: int, shallow: int = 1) -> tuple[int, ...]:
    """`measure(layers)`, read off the line through the depths `shallow` and `shallow` + 1 where it is none of these.

    Exact when each number is a + b · layers, which bytes held at one moment of a pass through equal layers are.
    """
    if layers <= shallow + 1:
        return tuple(measure(layers))
    low, high = measure(shallow), measure(shallow + 1)
    return tuple(a + (b - a) * (layers - shallow) for a, b in zip(low, high, strict=True))
