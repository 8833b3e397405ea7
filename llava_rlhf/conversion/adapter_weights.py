"""One LoRA adapter in the original's files or in ours: names and shapes of its tensors, reading and writing.

Both keep the same tensors, two for each adapted linear layer: A [r, inputs] and B [outputs, r], applied as
B·A·x · alpha / r (arXiv 2106.09685). They differ in the prefix of the names, in the file format, and in how
`adapter_config.json` says which layers are adapted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from llava_rlhf.conversion.adapter_settings import read_settings
from llava_rlhf.conversion.original_files import open_weights
from models.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ORIGINAL_ADAPTER_WEIGHTS,
    ORIGINAL_LAYERS,
    save_adapter,
)
from models.adapter_names import HF_LAYERS, present_tensor_name, unfit_tensors
from models.adapter_shapes import (
    LayerSizes,
    Shape,
    differences,
    listed,
    lora_shapes,
    module_name,
    natural_order,
)
from models.families.base import Family
from models.settings import LoraSettings


def weights_file(folder: Path) -> Path:
    """The weights of an adapter folder. Raises ValueError when it lacks a file, or has weights in both formats."""
    names = (ORIGINAL_ADAPTER_WEIGHTS, ADAPTER_WEIGHTS)
    found = [folder / name for name in names if (folder / name).is_file()]
    missing = [] if (folder / ADAPTER_CONFIG).is_file() else [ADAPTER_CONFIG]
    missing += [] if found else [" or ".join(names)]
    if missing:
        raise ValueError(f"{folder} is not a whole adapter: it lacks {' and '.join(missing)}")
    if len(found) > 1:
        raise ValueError(f"{folder} holds both {' and '.join(names)}; move one of them away")
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a file. Each tensor has its memory for itself: views of a larger block can't be written alone."""
    return {name: tensor.clone() for name, tensor in open_weights(path).items()}


def check_tensors(folder: Path, layers_at: str, sizes: LayerSizes | None) -> None:
    """Compare the tensors of an adapter with what its settings and its base ask for; every one must have its place.

    Args:
        folder: holds the adapter.
        layers_at: how its names begin, `ORIGINAL_LAYERS` or `HF_LAYERS`.
        sizes: the base; None takes the number of layers from the names, and any width.

    Raises:
        ValueError: missing, unexpected or wrongly shaped tensors, values that are no finite floating-point numbers, with
            their names; or unfit settings.
    """
    path = weights_file(folder)
    settings = read_settings(folder)
    weights = open_weights(path)
    found = {present_tensor_name(name): tuple(tensor.shape) for name, tensor in weights.items()}
    if unfit := unfit_tensors(found):
        raise ValueError(f"{path} {unfit}")
    if layers_at == ORIGINAL_LAYERS and path.name == ORIGINAL_ADAPTER_WEIGHTS and _holds(found, HF_LAYERS):
        layers_at = HF_LAYERS  # written by PEFT on Hugging Face's LLaVA: only the file format is another
    other, layout = (
        (HF_LAYERS, "Hugging Face") if layers_at == ORIGINAL_LAYERS else (ORIGINAL_LAYERS, "original")
    )
    if _holds(found, other):
        raise ValueError(f"{path} is in the {layout} layout already: its tensors are named {other}…")
    problems = differences(found, _expected_shapes(settings, layers_at, sizes, _count_layers(found)))
    if problems:
        layers = ", ".join(settings.layers)
        raise ValueError(
            f"{path} is not an adapter of rank {settings.r} for {layers} of {sizes or 'a base'}. {problems}"
        )
    check_numbers(path, weights)


def check_numbers(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the tensors, unless all values are finite floating-point numbers. Reads them all."""
    kinds = {"no floating-point numbers": [], "not finite (nan or inf)": []}
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            kinds["no floating-point numbers"].append(name)
        elif not bool(tensor.isfinite().all()):
            kinds["not finite (nan or inf)"].append(name)
    texts = [
        f"{len(names)} tensor(s) hold values that are {kind}: {listed(names)}"
        for kind, names in kinds.items()
        if names
    ]
    if texts:
        raise ValueError(f"{path}: {'; '.join(texts)}; copy it again, or choose another checkpoint")


def convert_to_ours(folder: Path, target: Path, base: str) -> None:
    """Write an original adapter as `AdapterBank.save` would, recorded as trained on `base`."""
    settings = read_settings(folder)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=Family.lora_pattern(settings.layers),
    )
    save_adapter(_renamed(folder, ORIGINAL_LAYERS, HF_LAYERS), config, target, base)


def convert_to_original(folder: Path, target: Path, base: str | None) -> None:
    """Write one of our adapters as PEFT 0.4 did: a pickle of tensors, and no setting that PEFT 0.4 does not know."""
    settings = read_settings(folder)
    alpha = settings.alpha
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": settings.r,
        "revision": None,
        "target_modules": list(settings.layers),
        "task_type": "CAUSAL_LM",
    }
    target.mkdir(parents=True)
    (target / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2))
    save_pickle(_renamed(folder, HF_LAYERS, ORIGINAL_LAYERS), target / ORIGINAL_ADAPTER_WEIGHTS)


def save_pickle(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors with `torch.save`, so that any torch from 1.6 on reads them with `weights_only=True`."""
    torch.save(dict(state), path)


def _expected_shapes(
    settings: LoraSettings, layers_at: str, sizes: LayerSizes | None, layers: int
) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for layer in range(sizes.layers if sizes else layers):
        for name in settings.layers:
            widths = sizes.widths[name] if sizes else (None, None)
            shapes |= lora_shapes(layers_at + module_name(layer, name), settings.r, widths)
    return shapes


def _count_layers(names: Iterable[str]) -> int:
    numbers = [int(match[1]) for name in names if (match := re.search(r"\.layers\.(\d+)\.", name))]
    return max(numbers, default=0) + 1


def _renamed(folder: Path, old: str, new: str) -> dict[str, Tensor]:
    stored = read_weights(weights_file(folder))
    state = {present_tensor_name(name): tensor for name, tensor in stored.items()}
    return {
        new + name.removeprefix(old).removeprefix(new): state[name]
        for name in sorted(state, key=natural_order)
    }


def _holds(names: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)
