"""Configuration of a base directory: what it says, as objects. Reads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.base_kind import check_kind
from models.families.base import Family
from models.families.registry import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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
    """What two bases must have in common where one stands in for the other, readable without weights.

    Attributes:
        image_token_id: id of the image placeholder.
        positions: of every image in the model; None where its size decides.
        layers, hidden_size: shape of the language model, which an adapter must fit.
    """

    image_token_id: int
    positions: int | None
    layers: int
    hidden_size: int


def read_base_facts(path: str | Path) -> BaseFacts:
    """Read `BaseFacts` from `config.json`. Raises ValueError for a directory that is no base."""
    family = read_family(path)
    text = family.config.get_text_config()
    return BaseFacts(family.image_token_id, family.fixed_positions, text.num_hidden_layers, text.hidden_size)


def read_family(path: str | Path) -> Family:
    """The family of a base directory. Raises ValueError as `check_kind` does."""
    return family_of(read_base_config(path))
