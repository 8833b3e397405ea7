"""Adapters on disk: plain PEFT folders, read and checked without loading a model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.vlm import read_base_facts

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
HF_LAYERS = "base_model.model.model.language_model.layers."  # how the names of our tensors begin

# The code of 2023 (PEFT 0.4 on a patched LLaVA) wrote other names, and knew no safetensors.
ORIGINAL_ADAPTER_WEIGHTS = "adapter_model.bin"
ORIGINAL_LAYERS = "base_model.model.model.layers."
ORIGINAL_ADAPTERS = ("lora_default", "lora_policy", "lora_value")
ORIGINAL_PARENT = "adapter_model"  # a checkpoint's adapters lie in this folder of it
ORIGINAL_REWARD_HEAD = "reward_head"
ORIGINAL_VALUE_HEAD = "value_head.pt"


def is_original_adapter(directory: str | Path) -> bool:
    """Whether a folder holds an adapter as the code of 2023 wrote it, in either file format.

    Raises ValueError when its `adapter_model.safetensors` can't be read.
    """
    weights = Path(directory) / ADAPTER_WEIGHTS
    if not weights.is_file():
        return (Path(directory) / ORIGINAL_ADAPTER_WEIGHTS).is_file()
    try:
        with safe_open(weights, framework="pt") as file:
            return any(key.startswith(ORIGINAL_LAYERS) for key in file.keys())  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{weights} is cut off or no safetensors file ({error})") from error


def original_adapter_folders(directory: str | Path) -> list[Path]:
    """Where in a folder the code of 2023 may have put adapters: right there, or by name, or below `adapter_model`."""
    directory = Path(directory)
    parents = (directory, directory / ORIGINAL_PARENT)
    return [folder for parent in parents for folder in (parent, *(parent / n for n in ORIGINAL_ADAPTERS))]


def refuse_original(directory: str | Path, reward_model: bool = False) -> None:
    """Raise ValueError, with the command that converts it, when a folder is one that the code of 2023 wrote."""
    heads = (Path(directory) / name for name in (ORIGINAL_REWARD_HEAD, ORIGINAL_VALUE_HEAD))
    if any(map(is_original_adapter, original_adapter_folders(directory))) or any(h.is_file() for h in heads):
        prompt = " --reward_prompt_file FILE" if reward_model else ""
        raise ValueError(
            f"{directory} was written by the original LLaVA-RLHF code. Convert it first:\n"
            f"bash scripts/convert_checkpoint.sh --input {shlex.quote(str(directory))} --base_model BASE{prompt} --output DIR"
        )


def read_adapter_config(directory: str | Path) -> LoraConfig:
    """Read `adapter_config.json`.

    Raises:
        ValueError: the folder is not a LoRA adapter in safetensors format, or is one of the original (which is told how
            to convert it).
    """
    refuse_original(directory)
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


def save_adapter(
    state: Mapping[str, Tensor], config: LoraConfig, directory: str | Path, base_model: str | None
) -> None:
    """Write one adapter as a plain PEFT folder.

    Args:
        state: its tensors under the key names of PEFT's files.
        config: its settings.
        directory: created if needed; receives `adapter_config.json` and `adapter_model.safetensors`.
        base_model: recorded as `base_model_name_or_path`, for whoever opens the folder with PEFT alone.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_safetensors(state, directory / ADAPTER_WEIGHTS)
    content = config.to_dict()
    content.update(inference_mode=True, base_model_name_or_path=base_model, task_type="CAUSAL_LM")
    (directory / ADAPTER_CONFIG).write_text(
        json.dumps(content, indent=2, sort_keys=True, default=_as_json) + "\n"
    )


def save_safetensors(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors as safetensors (contiguous copies on the CPU)."""
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in state.items()},
        path,
        metadata={"format": "pt"},
    )


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
