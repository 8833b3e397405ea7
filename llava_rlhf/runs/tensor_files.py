"""State dictionaries as safetensors files: tensors as such, everything around them as JSON. Nothing here is ever unpickled.

An optimizer's state is a tree of dictionaries, lists and plain values with tensors at some leaves. The tensors get numbers
as names; the tree, with a reference where a tensor was, stands in the file's metadata. DeepSpeed
writes its engine's state with pickle and loads it without restrictions: what such a file names is looked at first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

TREE = "tree"  # key of the metadata
# What DeepSpeed's files name besides tensors and plain values; all of them are classes that hold numbers.
KNOWN_CLASSES = frozenset(
    (
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    )
)


def save_tree(tree: Any, path: str | Path) -> None:
    """Write dictionaries (any plain keys), lists, tuples, None, bool, int, float, str and tensors; exact, floats too.

    Raises TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(tree, tensors))
    save_file(tensors, str(path), {TREE: text})


def load_tree(path: str | Path) -> Any:
    """Read what `save_tree` wrote; tensors come to the CPU."""
    with safe_open(str(path), framework="pt") as file:
        return _decode(json.loads(file.metadata()[TREE]), file)


def _encode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = str(len(tensors))
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = node.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(node, dict):
        return {"items": [[_encode(key, tensors), _encode(value, tensors)] for key, value in node.items()]}
    if isinstance(node, tuple):
        return {"tuple": [_encode(value, tensors) for value in node]}
    if isinstance(node, list):
        return [_encode(value, tensors) for value in node]
    if node is None or type(node) in (bool, int, float, str):
        return node
    raise TypeError(f"a value of type {type(node).__name__} can't be written to a checkpoint")


def _decode(node: Any, file: Any) -> Any:
    if isinstance(node, list):
        return [_decode(value, file) for value in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "tuple":
        return tuple(_decode(value, file) for value in content)
    return {_decode(key, file): _decode(value, file) for key, value in content}


def check_engine_files(checkpoint: Path) -> None:
    """Raise ValueError for a pickle below a checkpoint that names anything but `KNOWN_CLASSES`; nothing is loaded."""
    for path in sorted(path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth", ".bin")):
        try:
            named = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception as error:  # whatever a file that is no checkpoint leads to
            raise ValueError(f"{path} is not a file that torch.save wrote whole ({error})") from error
        if named - KNOWN_CLASSES:
            raise ValueError(
                f"{path} would run {', '.join(sorted(named - KNOWN_CLASSES))} when it is loaded, which DeepSpeed does not "
                "write: continue only from checkpoints that this program made"
            )
