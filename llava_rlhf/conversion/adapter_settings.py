"""What an adapter must look like: its `adapter_config.json`, and the sizes of the base that it was trained on.

Left out on purpose: adapters that train more than LoRA on the linear layers of the language model, or compute it in
another way (rank-stabilised, DoRA, ranks that differ by layer). The published code writes none of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import LlamaConfig

from llava_rlhf.conversion.original_config import read_original_config
from models.adapter_files import ADAPTER_CONFIG, check_scale
from models.adapter_shapes import LayerSizes, layer_sizes, read_layer_sizes
from models.families.base import Family
from models.json_objects import read_object
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings

# Settings that are taken over, replaced, or without effect on trained weights.
_FREE = frozenset(
    "peft_type task_type r lora_alpha lora_dropout target_modules base_model_name_or_path revision inference_mode "
    "auto_mapping peft_version".split()
)


def read_base_sizes(base: str | Path, allow_original: bool = False) -> LayerSizes:
    """Read the shape of a base's language model from `config.json`.

    Args:
        base: directory of a LLaVA model in Hugging Face format.
        allow_original: take one in the original format too.

    Raises:
        ValueError: the directory is no such model.
    """
    file = Path(base) / "config.json"
    if allow_original and file.is_file() and "mm_vision_tower" in read_object(file):
        return layer_sizes(base, LlamaConfig.from_dict(read_original_config(Path(base)).fields))
    return read_layer_sizes(base)


def read_settings(folder: Path) -> LoraSettings:
    """Rank, scale, dropout and adapted layers (in their order there) from the `adapter_config.json` in `folder`.

    Raises:
        ValueError: the file is unreadable, is no LoRA configuration, or says anything beyond plain LoRA on linear
            layers of the language model.
    """
    file = folder / ADAPTER_CONFIG
    content = read_object(file)
    if content.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type is {content.get('peft_type')!r}, can convert LORA only")
    if content.get("task_type") not in ("CAUSAL_LM", None):
        raise ValueError(f"{file}: task_type is {content['task_type']!r}, can convert CAUSAL_LM only")
    _refuse_beyond_plain_lora(file, content)
    rank, alpha, dropout = (content.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
    check_scale(file, rank, alpha)
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"{file}: lora_dropout is {dropout!r}, must be at least 0 and below 1")
    return LoraSettings(rank, alpha, dropout, _layer_names(file, content.get("target_modules")))


def recorded_base(folder: Path) -> str | None:
    """The base that the `adapter_config.json` in `folder` names."""
    return read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")


def _refuse_beyond_plain_lora(file: Path, content: Mapping[str, Any]) -> None:
    """All other settings must be as PEFT has them for plain LoRA; one that PEFT no longer knows must be off."""
    plain = LoraConfig().to_dict()
    for name in sorted(content.keys() - _FREE):
        value, expected = content[name], plain.get(name)
        both_off = not value and not expected  # null, false, [] and {}: a feature that is not used
        if value != expected and not both_off:
            raise ValueError(f"{file}: {name} is {value!r}, can convert plain LoRA only: {expected!r}")


def _layer_names(file: Path, target: Any) -> tuple[str, ...]:
    """The original lists names of layers, ours are in the pattern that `Family.lora_pattern` writes."""
    names = target
    if isinstance(target, str):
        listed = re.search(r"\(([\w|]+)\)$", target)
        names = listed[1].split("|") if listed else []
        if target != Family.lora_pattern(names):
            names = []
    known = isinstance(names, list) and names and set(names) <= set(LANGUAGE_MODEL_LINEAR_LAYERS)
    if not known or len(set(names)) < len(names):
        raise ValueError(
            f"{file}: target_modules is {target!r}, must list some of {', '.join(LANGUAGE_MODEL_LINEAR_LAYERS)}"
        )
    return tuple(names)
