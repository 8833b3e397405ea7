"""Adapters on disk: plain PEFT folders, read and checked without loading a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.vlm import read_base_facts

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def read_adapter_config(directory: str | Path) -> LoraConfig:
    """Read `adapter_config.json`. Raises ValueError when the folder is not a LoRA adapter in safetensors format."""
    directory = Path(directory)
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory} is not an adapter folder: it lacks {' and '.join(missing)}")
    config = LoraConfig.from_pretrained(str(directory))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{directory}/{ADAPTER_CONFIG}: peft_type {config.peft_type} is not LORA")
    return config


def check_adapter_fits(directory: str | Path, base: str | Path) -> None:
    """Compare an adapter's layers and width with a base, reading file headers only. Raises ValueError."""
    read_adapter_config(directory)
    facts = read_base_facts(base)
    with safe_open(Path(directory) / ADAPTER_WEIGHTS, framework="pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - not a dict
    layers = {int(match[1]) for key in shapes if (match := re.search(r"layers\.(\d+)\.", key))}
    widths = {shape[1] for key, shape in shapes.items() if key.endswith("q_proj.lora_A.weight")}
    if max(layers, default=-1) >= facts.layers or not widths <= {facts.hidden_size}:
        raise ValueError(
            f"{directory} was trained on another base: {len(layers)} layers of width {sorted(widths)}; {base} has "
            f"{facts.layers} layers of width {facts.hidden_size}"
        )


def save_safetensors(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors as safetensors (contiguous copies on the CPU)."""
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in state.items()},
        path,
        metadata={"format": "pt"},
    )
