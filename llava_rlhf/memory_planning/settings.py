"""What a plan depends on, read from the flags of a program: of a command line, or of settings that are already parsed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_utils.answer_pairs import AnswerPairDataset
from data_utils.datasets import DialogueDataset, ExampleDataset
from data_utils.image_choices import ImageChoices
from data_utils.row_settings import PICTURE
from llava_rlhf.assembly.image_choices import LIMITS
from llava_rlhf.engines.arguments import LOCAL
from llava_rlhf.hub.flags import fetch_named_model
from llava_rlhf.memory_planning.bases import BaseSpec
from llava_rlhf.memory_planning.names import PICTURE_SIZE
from llava_rlhf.memory_planning.pictures import within_limits
from llava_rlhf.memory_planning.published import PUBLISHED
from llava_rlhf.memory_planning.weights import Zero
from llava_rlhf.ppo.arguments import SAMPLES_FROM_PARTS
from llava_rlhf.runs.role_files import POLICY, REWARD, REWARD_CARD
from models.adapter_files import ADAPTER_CONFIG, read_adapter_config
from models.heads import LINEAR
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings


@dataclass(frozen=True)
class Lengths:
    """The longest rows in tokens, an image counted as one.

    Attributes:
        query: of a PPO prompt.
        total: of a whole row; in PPO prompt, response and reward prompt.
        supervised: tokens of a dialogue, or of either one of a pair, that carry loss.
        images: of a row.
        picture: positions of an image, where they are not all alike; None: not known, or they are.
    """

    query: int
    total: int
    supervised: int
    images: int = 1
    picture: int | None = None

    @staticmethod
    def allowed(flags: Mapping[str, Any]) -> Lengths:
        """What the flags let pass: the worst case."""
        return Lengths(flags["query_len"], flags["model_max_length"], flags["model_max_length"])

    @staticmethod
    def of_data(dataset: ExampleDataset) -> Lengths:
        """What the rows of a data set hold."""
        longest = {name: max(lengths) for name, lengths in dataset.report.token_lengths.items()}
        labels = {DialogueDataset: ("supervised",), AnswerPairDataset: ("supervised_1", "supervised_2")}
        columns = map(dataset.column, labels.get(type(dataset), ()))
        supervised = max((sum(answer) for column in columns for answer in column), default=0)
        images = max(map(len, dataset.column("images")))
        return Lengths(longest["query"], longest["total"], supervised, images, longest.get(PICTURE))


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


def base_of(
    flags: Mapping[str, Any], path: str | None, shape: str | None, picture: tuple[int, int] = PICTURE_SIZE
) -> BaseSpec:
    """A base as the flags load it.

    Args:
        flags: of the program.
        path: where it lies. Where nothing lies, a published shape that the path names is taken.
        shape: a published shape to take instead, or None.
        picture: width and height of the pictures.

    Raises:
        ValueError: neither says what it looks like, or it can't be loaded so.
    """
    if flags["bits"] not in (4, 8, 16, 32):
        raise ValueError(f"--bits {flags['bits']}: choose 4, 8, 16 or 32")
    base = replace(_find_base(path, shape), picture=picture)
    limits = {name: flags[name] for name in LIMITS if flags.get(name)}
    if limits:
        fitted = within_limits(base.config, base.processor, ImageChoices(**limits), path or base.name)
        base = replace(base, processor=fitted)
    loading = {name: flags[name] for name in ("bits", "double_quant")}
    return replace(base, dtype=dtype_of(flags), attention=flags["attn_implementation"], **loading)


def _find_base(path: str | None, shape: str | None) -> BaseSpec:
    if shape is not None:
        return BaseSpec.published(shape)
    if path and Path(path).is_dir():
        return BaseSpec.in_folder(path)
    for name in PUBLISHED:
        if path and name in path.lower():
            return BaseSpec.published(name)
    if path and (found := fetch_named_model(path, path, configurations=True)) != path:
        return replace(BaseSpec.in_folder(found), name=path)
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


def stored_head(folder: str | None) -> str:
    """The kind of head that a reward model's folder holds; the published one where there is none yet."""
    card = Path(local_folder(folder) or "") / REWARD_CARD
    content = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return content.get("reward_head", LINEAR)


def reward_base_path(flags: Mapping[str, Any]) -> str | None:
    """Where the reward model's base lies: as the flag or, if it can be read, the reward model says; None: nobody says."""
    if flags.get("reward_base_model_name"):
        return flags["reward_base_model_name"]
    card = Path(local_folder(flags.get("reward_model_name_or_path")) or "") / REWARD_CARD
    return json.loads(card.read_text(encoding="utf-8"))["base_model"] if card.is_file() else None


def samples_here(flags: Mapping[str, Any]) -> bool:
    """Whether the processes that train PPO answer the prompts, too. Raises ValueError where they have only parts of the weights."""
    here, zero = flags["rollout_engine"] == LOCAL, zero_of(flags)
    if here and zero is not None and zero.stage == 3:
        raise ValueError(SAMPLES_FROM_PARTS.format(flags["deepspeed"]))
    return here


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
