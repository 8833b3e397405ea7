"""Configuration of a base directory: what it says, as objects. Reads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.base_kind import check_kind

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedConfig


def read_base_config(path: str | Path) -> PreTrainedConfig:
    """The configuration of a base, whose own code (if it brings any) is not run. Raises ValueError as `check_kind` does."""
    from transformers import AutoConfig  # loads torch

    check_kind(path)
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
