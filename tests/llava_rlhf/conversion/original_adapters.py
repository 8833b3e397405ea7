"""Adapters in the layouts of the original code, of any size: PEFT itself on a plain language model gives their names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, LlamaForCausalLM

from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS

PRIVATE_PATH = "/home/somebody/models/llava-sft"
PUBLISHED_FIELDS = {
    "auto_mapping": None,
    "base_model_name_or_path": PRIVATE_PATH,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 6,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "revision": None,
    "target_modules": list(LANGUAGE_MODEL_LINEAR_LAYERS),
    "task_type": "CAUSAL_LM",
}


def adapter_weights(
    base: Path, layers: tuple[str, ...] = LANGUAGE_MODEL_LINEAR_LAYERS, seed: int = 0
) -> dict:
    """Random tensors of rank 4 for the language model of `base`, under the names that PEFT gives them on it alone."""
    language_model = LlamaForCausalLM(AutoConfig.from_pretrained(base).get_text_config())
    wrapped = get_peft_model(language_model, LoraConfig(r=4, target_modules=list(layers)))
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(wrapped)
    return {name: 0.2 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def write_adapter(folder: Path, weights: dict[str, Tensor], ending: str = "bin", **fields: object) -> Path:
    """Write `adapter_config.json` (with changed `fields`) and the weights to `folder`, which is created; returns it."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**PUBLISHED_FIELDS, **fields}, indent=2))
    if ending == "bin":
        torch.save(weights, folder / "adapter_model.bin")
    else:
        save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def write_head(path: Path, width: int = 48, seed: int = 0) -> Path:
    """A random scalar head, as `torch.save` of its state dict; returns its path."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(width, 1)
    for value in head.parameters():
        torch.nn.init.normal_(value, generator=generator)
    torch.save({name: value.detach() for name, value in head.state_dict().items()}, path)
    return path


def write_policy(folder: Path, weights: dict[str, Tensor]) -> Path:
    """A policy as supervised fine-tuning leaves it; returns its folder."""
    write_adapter(folder / "lora_default", weights)
    return folder


def write_reward_model(folder: Path, weights: dict[str, Tensor]) -> Path:
    """A checkpoint of reward training; returns its folder."""
    write_adapter(folder / "adapter_model" / "lora_default", weights)
    write_head(folder / "reward_head")
    return folder


def write_ppo_checkpoint(folder: Path, policy: dict[str, Tensor], value: dict[str, Tensor]) -> Path:
    """A checkpoint of PPO; returns its folder."""
    write_adapter(folder / "adapter_model" / "lora_policy", policy)
    write_adapter(folder / "adapter_model" / "lora_value", value)
    write_head(folder / "value_head.pt")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, folder / name)
    return folder
