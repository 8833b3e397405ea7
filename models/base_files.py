"""Configuration of a base directory: is it a LLaVA in Hugging Face format, and what does it say. Reads no weights."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.json_objects import read_object

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedConfig


def check_base(path: str | Path) -> None:
    """Refuse a directory that `load_base` cannot load, reading only its `config.json`. Raises ValueError."""
    config_file = Path(path) / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{path} is not a model directory: it has no config.json")
    # Read as it is: a configuration class fills what an original checkpoint lacks with sizes of another model.
    fields = read_object(config_file)
    if fields.get("mm_vision_tower") is not None and "vision_config" not in fields:
        raise ValueError(
            f"{config_file} is an original LLaVA checkpoint (it names mm_vision_tower); convert it to the Hugging Face "
            f"format first: bash scripts/convert_checkpoint.sh --input {shlex.quote(str(path))} --vision_tower DIR --output DIR"
        )
    if fields.get("model_type") != "llava" or "vision_config" not in fields:
        raise ValueError(
            f"{config_file}: model_type {fields.get('model_type')!r} is not a LLaVA model in Hugging Face format "
            "(LlavaForConditionalGeneration)"
        )


def read_base_config(path: str | Path) -> PreTrainedConfig:
    """The configuration of a base, whose own code (if it brings any) is not run. Raises ValueError as `check_base` does."""
    from transformers import AutoConfig  # loads torch

    check_base(path)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (
        Exception
    ) as error:  # transformers raises whatever its classes raise on values that they do not expect
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}/config.json can't be read ({reason}); fetch the base again") from error


@dataclass(frozen=True)
class BaseFacts:
    """What the data side must know of a base, readable without its weights.

    Attributes:
        image_token_id: id of the image placeholder.
        tokens_per_image: positions that one image takes in the model.
        layers, hidden_size: shape of the language model, which an adapter must fit.
    """

    image_token_id: int
    tokens_per_image: int
    layers: int
    hidden_size: int


def read_base_facts(path: str | Path) -> BaseFacts:
    """Read `BaseFacts` from `config.json`. Raises ValueError for a directory that is not a LLaVA base."""
    config = read_base_config(path)
    text = config.get_text_config()
    return BaseFacts(
        config.image_token_id, positions_of_one_image(config), text.num_hidden_layers, text.hidden_size
    )


def positions_of_one_image(config: LlavaConfig) -> int:
    """How many positions of a sequence the features of one image take."""
    vision = config.vision_config
    class_token = config.vision_feature_select_strategy == "full"
    return (vision.image_size // vision.patch_size) ** 2 + class_token
