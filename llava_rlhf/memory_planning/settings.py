"""What a plan depends on, read from the flags of a program: of a command line, or of settings that are already parsed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig

from data_utils.datasets import DialogueDataset, ExampleDataset
from llava_rlhf.hub.flags import fetch_named_model
from llava_rlhf.memory_planning.bases import PUBLISHED, BaseSpec, read_config
from llava_rlhf.memory_planning.weights import Zero
from llava_rlhf.runs.role_files import POLICY, REWARD
from models.adapter_files import ADAPTER_CONFIG, read_adapter_config
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings


@dataclass(frozen=True)
class Lengths:
    """The longest rows in tokens, an image counted as one.

    Attributes:
        query: of a PPO prompt.
        total: of a whole row; in PPO prompt, response and reward prompt.
        supervised: tokens of a dialogue that carry loss.
        images: of a row.
    """

    query: int
    total: int
    supervised: int
    images: int = 1

    @staticmethod
    def allowed(flags: Mapping[str, Any]) -> Lengths:
        """What the flags let pass: the worst case."""
        return Lengths(flags["query_len"], flags["model_max_length"], flags["model_max_length"])

    @staticmethod
    def of_data(dataset: ExampleDataset) -> Lengths:
        """What the rows of a data set hold."""
        longest = {name: max(lengths) for name, lengths in dataset.report.token_lengths.items()}
        dialogues = isinstance(dataset, DialogueDataset)
        supervised = max(map(sum, dataset.column("supervised"))) if dialogues else 0
        images = max(map(len, dataset.column("images")))
        return Lengths(longest["query"], longest["total"], supervised, images)


def flags_of(settings: Iterable[Any]) -> dict[str, Any]:
    """The fields of parsed settings as the flags they come from, names being unique in a program."""
    return {name: value for group in settings for name, value in vars(group).items()}


def checkpoints_activations(flags: Mapping[str, Any]) -> bool:
    """Whether layers are recomputed in the backward pass, however the flag is called."""
    names = ("checkpoint_activations", "gradient_checkpointing", "activation_checkpointing")
    return any(flags.get(name) for name in names)


def dtype_of(flags: Mapping[str, Any]) -> torch.dtype:
    """The number format of activations."""
    return torch.bfloat16 if flags["bf16"] else torch.float16 if flags["fp16"] else torch.float32


def base_of(flags: Mapping[str, Any], path: str | None, shape: str | None) -> BaseSpec:
    """A base as the flags load it.

    Args:
        flags: of the program.
        path: where it lies. Where nothing lies, a published shape that the path names is taken.
        shape: a published shape to take instead, or None.

    Raises:
        ValueError: neither says what it looks like, or it can't be loaded so.
    """
    if flags["bits"] not in (4, 8, 16, 32):
        raise ValueError(f"--bits {flags['bits']}: choose 4, 8, 16 or 32")
    name, config = _find_config(path, shape)
    loading = {name: flags[name] for name in ("bits", "double_quant")}
    return BaseSpec.of(name, config, dtype=dtype_of(flags), attention=flags["attn_implementation"], **loading)


def _find_config(path: str | None, shape: str | None) -> tuple[str, LlavaConfig]:
    if shape is not None:
        return shape, PUBLISHED[shape]
    if path and Path(path).is_dir():
        return Path(path).resolve().name, read_config(path)
    for name, config in PUBLISHED.items():
        if path and name in path:
            return name, config
    if path and (found := fetch_named_model(path, path, configurations=True)) != path:
        return path, read_config(found)
    raise ValueError(
        f"{path or 'the base'} is no directory, so its sizes are not known; choose one with --shape: "
        + ", ".join(PUBLISHED)
    )


def local_folder(path: str | None) -> str | None:
    """A folder of configurations: the path itself, or where they are downloaded to; the path too where there are none yet."""
    try:
        return fetch_named_model(path, path, configurations=True) if path else path
    except ValueError:
        return path


def new_lora(flags: Mapping[str, Any]) -> LoraSettings:
    """The adapter that a program makes."""
    return LoraSettings(
        flags["lora_r"], flags["lora_alpha"], flags["lora_dropout"], tuple(flags["lora_modules"])
    )


def stored_lora(folder: str | None) -> LoraSettings:
    """The adapter that lies in a folder of a policy or reward model; the published one where there is none yet."""
    folder = local_folder(folder)
    places = [Path(folder) / name for name in (POLICY, REWARD, "")] if folder else []
    for place in places:
        if (place / ADAPTER_CONFIG).is_file():
            config = read_adapter_config(place)
            layers = tuple(
                name for name in LANGUAGE_MODEL_LINEAR_LAYERS if name in str(config.target_modules)
            )
            return LoraSettings(config.r, config.lora_alpha, 0.0, layers)
    return LoraSettings()


def zero_of(flags: Mapping[str, Any]) -> Zero | None:
    """How DeepSpeed shares the work. Raises ValueError for an unreadable configuration."""
    content = flags.get("deepspeed")
    if not content:
        return None
    if not isinstance(content, Mapping):
        try:
            content = json.loads(Path(content).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--deepspeed {content}: not a DeepSpeed configuration ({error})") from error
    zero = content.get("zero_optimization", {})
    if not zero.get("stage"):
        return None
    return Zero(
        zero["stage"],
        int(zero.get("reduce_bucket_size", 5e8)),
        bool(zero.get("overlap_comm", zero["stage"] == 3)),
        int(zero.get("stage3_max_live_parameters", 1e9)),
    )
