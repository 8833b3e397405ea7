"""The bases that are planned with: configurations, read from disk or published, and models of them without contents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import set_zero3_state

from llava_rlhf.memory_planning.names import PICTURE_SIZE
from llava_rlhf.memory_planning.pictures import (
    CutPicture,
    configuration_of,
    cut_picture,
    picture_of,
    planned_family,
)
from llava_rlhf.memory_planning.published import MARKS, PUBLISHED
from models.adapters import AdapterBank, AdapterSpec
from models.base_files import read_base_config
from models.families.base import Family
from models.families.registry import family_of
from models.image_settings import read_image_settings
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel

ONLY = "only"  # name of the one adapter of a model without contents
LAYER = re.compile(r"\.(layers|blocks|layer)\.\d+\.")


@dataclass(frozen=True)
class BaseSpec:
    """One base as it will be loaded.

    Attributes:
        name: what to call it.
        config: its `config.json` as text, so that equal bases are equal.
        processor: the settings of its image processor as text, where the size of a picture decides how many positions it
            takes.
        picture: width and height of the pictures.
        bits, double_quant: as in `models.vlm.BaseSettings`.
        dtype: of activations and of what is not quantised.
        attention: `sdpa`, `eager` or `flash_attention_2`.
    """

    name: str
    config: str
    processor: str = "{}"
    picture: tuple[int, int] = PICTURE_SIZE
    bits: int = 16
    dtype: torch.dtype = torch.float32
    double_quant: bool = True
    attention: str = "sdpa"

    @staticmethod
    def of(name: str, config: PreTrainedConfig, **others: object) -> BaseSpec:
        """A base of this configuration; `others` are the fields behind `config`."""
        return BaseSpec(name, _text(config.to_dict()), **others)

    @staticmethod
    def published(name: str, **others: object) -> BaseSpec:
        """The base of a published shape; `others` are the fields behind `processor`."""
        config, processor = PUBLISHED[name]
        return BaseSpec(name, _text(config), _text(processor), **others)

    @staticmethod
    def in_folder(folder: str | Path, **others: object) -> BaseSpec:
        """The base in a folder. Raises ValueError when it is none that can be loaded, or planned."""
        config = read_base_config(folder)
        family = family_of(config)
        if family.model_type in MARKS and not Path(folder, "tokenizer.json").is_file():
            raise ValueError(
                f"{folder} has no tokenizer.json, which says how many positions a picture of the family {family.title} takes; fetch the "
                "base's own file"
            )
        alike = family.fixed_positions is not None
        processor = {} if alike else read_image_settings(Path(folder))[1]
        return BaseSpec(Path(folder).resolve().name, _text(config.to_dict()), _text(processor), **others)

    @cached_property
    def configuration(self) -> PreTrainedConfig:
        """The configuration as an object."""
        return configuration_of(self.config)

    @property
    def family(self) -> Family:
        """What the base is one of."""
        return planned_family(self.config)

    @property
    def quantised(self) -> bool:
        """Whether the linear layers of the language model are in 4 or 8 bits."""
        return self.bits in (4, 8)

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.configuration.get_text_config().num_hidden_layers

    @property
    def vision_layers(self) -> int:
        """Layers of the vision tower."""
        return self.family.vision_layers(self.configuration)

    @property
    def hidden(self) -> int:
        """Hidden size of the language model."""
        return self.configuration.get_text_config().hidden_size

    @property
    def vocabulary(self) -> int:
        """Rows of the vocabulary projection."""
        return self.configuration.get_text_config().vocab_size

    @property
    def counts_positions(self) -> bool:
        """Whether limits of length count every position of a picture; else each counts as one token."""
        return self.family.fixed_positions is None

    @property
    def cut_picture(self) -> CutPicture:
        """One picture as the tower takes it."""
        return cut_picture(self.config, self.processor, self.picture)

    def with_pictures_of(self, positions: int | None) -> BaseSpec:
        """The same with pictures that take at least so many positions, where their size decides that."""
        if not self.counts_positions or positions in (None, self.positions):
            return self
        return replace(self, picture=picture_of(self.config, self.processor, positions))

    @property
    def positions(self) -> int:
        """Places that one image takes in the language model, marks included."""
        return self.cut_picture.positions

    @property
    def features(self) -> int:
        """Features of one image."""
        return self.cut_picture.features

    @property
    def feature_bytes(self) -> int:
        """Of the features of one image."""
        return self.features * self.family.feature_width * self.dtype.itemsize

    @property
    def deeper(self) -> int:
        """First layers of the language model that read features of their own."""
        return self.family.feature_width // self.hidden - 1

    @property
    def pixels(self) -> int:
        """Numbers in one image."""
        return self.cut_picture.pixels.numel()

    @property
    def cache_width(self) -> int:
        """Numbers that the key/value cache keeps of one token in one layer."""
        heads, channels = self.cached_heads
        return 2 * heads * channels

    @property
    def cached_heads(self) -> tuple[int, int]:
        """Heads that keys and values have, and channels of each. Not every configuration states both."""
        text = self.configuration.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return heads, getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _text(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True)


def meta_model(base: BaseSpec, layers: int, vision_layers: int) -> PreTrainedModel:
    """The base on the meta device, cut to so many layers; its attention is one that needs no package."""
    config, family = configuration_of(base.config), base.family
    family.shorten(config, layers, vision_layers)
    config._attn_implementation = "eager" if base.attention == "eager" else "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(base.dtype)
    try:
        # As if ZeRO-3 had cut the model up already: else one process would do so, and wait for the others for ever.
        with torch.device("meta"), set_zero3_state():
            return family.model_class()(config).eval()
    finally:
        torch.set_default_dtype(before)


def meta_bank(base: BaseSpec, lora: LoraSettings, layers: int, checkpointing: bool) -> AdapterBank:
    """A cut base on the meta device with one trained adapter, `ONLY`."""
    vlm = VisionLanguageModel(meta_model(base, layers, vision_layers=1), base.dtype)
    with torch.device("meta"):  # no random number is drawn: what the run draws afterwards stays what it was
        return AdapterBank(vlm, {ONLY: AdapterSpec(lora, trainable=True)}, checkpointing)


@lru_cache(maxsize=16)
def weight_shapes(base: BaseSpec, lora: LoraSettings | None = None) -> dict[str, tuple[torch.Size, int]]:
    """Shape of every weight of the base, or with `lora` of one adapter on it, and how many such weights there are.

    Counted on one layer of each kind; names are those of the first layer.
    """
    model: nn.Module = meta_model(base, 1, 1) if lora is None else meta_bank(base, lora, 1, False).vlm.model
    towers, found = tuple(base.family.towers.values()), {}
    for name, weight in model.named_parameters():
        if (lora is not None) == (".lora_" in name):
            layers = base.vision_layers if name.startswith(towers) else base.layers
            found[name] = (weight.shape, layers if LAYER.search(name) else 1)
    return found
