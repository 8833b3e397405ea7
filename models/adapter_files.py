"""Adapters on disk: plain PEFT folders, read and checked without loading a model."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from models.adapter_names import HF_MODEL, REMEDY, adapted_layers, beyond_language_lora, present_tensor_name
from models.adapter_shapes import (
    LayerSizes,
    Shape,
    differences,
    listed,
    lora_shapes,
    natural_order,
    read_layer_sizes,
)
from models.safetensors_headers import FLOATING, read_header

if TYPE_CHECKING:  # heavy, and who only asks for names or what a folder is needs neither
    from peft import LoraConfig
    from torch import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

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
    weights, pickled = Path(directory) / ADAPTER_WEIGHTS, Path(directory) / ORIGINAL_ADAPTER_WEIGHTS
    if weights.is_file():
        return any(name.startswith(ORIGINAL_LAYERS) for name in read_header(weights))
    return pickled.is_file() and not is_pickled_present_adapter(directory)


def is_pickled_present_adapter(directory: str | Path) -> bool:
    """Whether a folder holds an adapter that PEFT wrote on Hugging Face's LLaVA as a pickle, told by its tensors' names."""
    pickled = Path(directory) / ORIGINAL_ADAPTER_WEIGHTS
    if (Path(directory) / ADAPTER_WEIGHTS).is_file() or not pickled.is_file():
        return False
    import torch

    try:
        state = torch.load(pickled, map_location="cpu", weights_only=True)
    # The unpickler raises whatever type it likes on broken bytes; the converter says what is wrong with them.
    except Exception:
        return False
    language = HF_MODEL + "model.language_model."
    names = [name for name in state if isinstance(name, str)] if isinstance(state, dict) else []
    return any(present_tensor_name(name).startswith(language) for name in names)


def original_adapter_folders(directory: str | Path) -> list[Path]:
    """Where in a folder the code of 2023 may have put adapters: right there, or by name, or below `adapter_model`."""
    directory = Path(directory)
    parents = (directory, directory / ORIGINAL_PARENT)
    return [folder for parent in parents for folder in (parent, *(parent / n for n in ORIGINAL_ADAPTERS))]


def refuse_original(directory: str | Path, reward_model: bool = False) -> None:
    """Raise ValueError, with the command that converts it, when a folder is one that the code of 2023 wrote."""
    directory = Path(directory)
    prompt = " --reward_prompt_file FILE" if reward_model else ""
    folder, what = directory, f"{directory} was written by the original LLaVA-RLHF code"
    if not _is_original(directory):
        if any(directory.glob(f"*/{ADAPTER_CONFIG}")):
            return
        checkpoints = [folder for folder in sorted(directory.glob("checkpoint-*")) if _is_original(folder)]
        if not checkpoints:
            return
        folder = max(checkpoints, key=lambda path: natural_order(path.name))
        names = ", ".join(sorted((path.name for path in checkpoints), key=natural_order))
        what = f"{directory} holds only checkpoints of the original LLaVA-RLHF code ({names})"
    raise ValueError(
        f"{what}. Convert {'it' if folder == directory else 'one of them'} first:\n"
        f"{_conversion(folder, prompt)}"
    )


def _conversion(folder: Path, prompt: str = "") -> str:
    return f"bash scripts/convert_checkpoint.sh --input {shlex.quote(str(folder))} --base_model BASE{prompt} --output DIR"


def _is_original(directory: Path) -> bool:
    heads = (directory / name for name in (ORIGINAL_REWARD_HEAD, ORIGINAL_VALUE_HEAD))
    return any(map(is_original_adapter, original_adapter_folders(directory))) or any(
        h.is_file() for h in heads
    )


def read_adapter_config(directory: str | Path) -> LoraConfig:
    """Read `adapter_config.json`.

    Raises:
        ValueError: the folder is not a LoRA adapter in safetensors format, or is one of the original (which is told how
            to convert it).
    """
    from peft import LoraConfig

    refuse_original(directory)
    directory = Path(directory)
    if is_pickled_present_adapter(directory):
        raise ValueError(
            f"{directory} holds its weights as a pickle ({ORIGINAL_ADAPTER_WEIGHTS}), which is not read here. Convert it "
            f"first:\n{_conversion(directory)}"
        )
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory} is not an adapter folder: it lacks {' and '.join(missing)}")
    file = directory / ADAPTER_CONFIG
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("peft_type")
        if kind in (None, "LORA"):
            config = LoraConfig.from_pretrained(str(directory))
    except Exception as error:  # PEFT raises whatever its classes raise on values that it does not expect
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} is not one that PEFT can read ({reason})") from error
    if kind not in (None, "LORA"):
        raise ValueError(f"{file}: peft_type {kind} is not LORA; {REMEDY}")
    return config


def read_adapter_tensors(directory: str | Path) -> dict[str, Tensor]:
    """Name → tensor of an adapter, under the names of today."""
    from safetensors.torch import load_file

    state = load_file(Path(directory) / ADAPTER_WEIGHTS, device="cpu")
    return {present_tensor_name(name): tensor for name, tensor in state.items()}


def check_adapter_fits(directory: str | Path, base: str | Path) -> None:
    """Compare an adapter with a base: every tensor of every adapted layer, by file headers only.

    Raises:
        ValueError: no adapter, one that is or trains more than LoRA on the language model, a tensor is missing,
            unexpected, of another shape or no floating-point numbers, or the rank or the scale is none.
    """
    config = read_adapter_config(directory)
    sizes = read_layer_sizes(base)
    check_scale(Path(directory) / ADAPTER_CONFIG, config.r, config.lora_alpha)
    path = Path(directory) / ADAPTER_WEIGHTS
    entries = {present_tensor_name(name): entry for name, entry in read_header(path).items()}
    if beyond := beyond_language_lora(config, entries):
        raise ValueError(f"{directory} {beyond}")
    found = {name: entry.shape for name, entry in entries.items()}
    others = [name for name, entry in entries.items() if entry.dtype not in FLOATING]
    problems = differences(found, _expected(config, sizes))
    if problems:
        raise ValueError(
            f"{directory} was trained on another base than {sizes}, or is not whole. In {ADAPTER_WEIGHTS}: {problems}"
        )
    if others:
        raise ValueError(f"{path}: must hold floating-point numbers, but not so {listed(others)}")


def check_scale(file: Path, rank: object, alpha: object) -> None:
    """Raise ValueError, naming the file, unless rank and alpha of an adapter (scale alpha / r) are such numbers."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{file}: r is {rank!r}, must be a positive integer")
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or alpha <= 0:
        raise ValueError(f"{file}: lora_alpha is {alpha!r}, must be a number above 0")


def _expected(config: LoraConfig, sizes: LayerSizes) -> dict[str, Shape]:
    """Name → shape of the tensors that PEFT makes on a base; ranks that differ by layer are not looked at."""
    rank = None if config.rank_pattern else config.r
    shapes: dict[str, Shape] = {}
    for linear in adapted_layers(config, sizes.layers, sizes.widths, sizes.family):
        shapes |= lora_shapes(HF_MODEL + linear, rank, sizes.widths[linear.rsplit(".", 1)[1]])
    return shapes


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
    from safetensors.torch import save_file

    save_file(
        {key: value.detach().cpu().contiguous() for key, value in state.items()},
        path,
        metadata={"format": "pt"},
    )


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
