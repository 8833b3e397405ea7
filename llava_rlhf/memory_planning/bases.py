"""The bases that are planned with: configurations, read from disk or published, and models of them without contents."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_utils import set_zero3_state

from llava_rlhf.memory_planning.names import SHAPES
from models.adapters import AdapterBank, AdapterSpec
from models.base_kind import check_kind
from models.families.base import Family
from models.families.registry import FAMILIES, family_of
from models.settings import LoraSettings
from models.vlm import VisionLanguageModel

ONLY = "only"  # name of the one adapter of a model without contents
LAYER = re.compile(r"(language_model|vision_tower).*\.layers\.(\d+)\.")


def _published(hidden: int, intermediate: int, layers: int, heads: int, image: int) -> LlavaConfig:
    """LLaVA-1.5 as the paper used it: Vicuna behind CLIP ViT-L/14."""
    patch = 14
    return LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=32064,  # 32 000 tokens, `<image>`, and what the converter rounds up to
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=4096,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=image,
            patch_size=patch,
            projection_dim=768,
        ),
        image_token_index=32000,
        image_seq_length=(image // patch) ** 2,
    )


PUBLISHED = {name: _published(*sizes) for name, sizes in SHAPES.items()}


@dataclass(frozen=True)
class BaseSpec:
    """One base as it will be loaded.

    Attributes:
        name: what to call it.
        config: its `config.json` as text, so that equal bases are equal.
        bits, double_quant: as in `models.vlm.BaseSettings`.
        dtype: of activations and of what is not quantised.
        attention: `sdpa`, `eager` or `flash_attention_2`.
    """

    name: str
    config: str
    bits: int = 16
    dtype: torch.dtype = torch.float32
    double_quant: bool = True
    attention: str = "sdpa"

    @staticmethod
    def of(name: str, config: LlavaConfig, **loading: object) -> BaseSpec:
        """A base of this configuration; `loading` are the fields behind `config`."""
        return BaseSpec(name, json.dumps(config.to_dict(), sort_keys=True), **loading)

    @cached_property
    def llava(self) -> LlavaConfig:
        """The configuration as an object."""
        return LlavaConfig.from_dict(json.loads(self.config))

    @property
    def family(self) -> Family:
        """What the base is one of; all its images are alike."""
        return family_of(self.llava)

    @property
    def quantised(self) -> bool:
        """Whether the linear layers of the language model are in 4 or 8 bits."""
        return self.bits in (4, 8)

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.llava.get_text_config().num_hidden_layers

    @property
    def vision_layers(self) -> int:
        """Layers of the vision tower."""
        return self.llava.vision_config.num_hidden_layers

    @property
    def hidden(self) -> int:
        """Hidden size of the language model."""
        return self.llava.get_text_config().hidden_size

    @property
    def vocabulary(self) -> int:
        """Rows of the vocabulary projection."""
        return self.llava.get_text_config().vocab_size

    @property
    def positions(self) -> int:
        """Places that one image takes in the language model."""
        return len(self.family.placeholder(()))

    @property
    def pixels(self) -> int:
        """Numbers in one image."""
        vision = self.llava.vision_config
        return vision.num_channels * vision.image_size**2

    @property
    def cache_width(self) -> int:
        """Numbers that the key/value cache keeps of one token in one layer."""
        heads, channels = self.cached_heads
        return 2 * heads * channels

    @property
    def cached_heads(self) -> tuple[int, int]:
        """Heads that keys and values have, and channels of each. Not every configuration states both."""
        text = self.llava.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return heads, getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def read_config(path: str | Path) -> LlavaConfig:
    """The configuration of a base directory. Raises ValueError when it is no LLaVA base that can be loaded."""
    kind = check_kind(path)["model_type"]
    if kind != LlavaConfig.model_type:
        raise ValueError(
            f"{path} is of type {kind}: the memory of a {FAMILIES[kind].title} can't be planned yet"
        )
    return LlavaConfig.from_pretrained(path)


def meta_model(base: BaseSpec, layers: int, vision_layers: int) -> LlavaForConditionalGeneration:
    """The base on the meta device, cut to so many layers; its attention is one that needs no package."""
    config = LlavaConfig.from_dict(json.loads(base.config))
    config.text_config.num_hidden_layers = layers
    config.vision_config.num_hidden_layers = vision_layers
    config._attn_implementation = "eager" if base.attention == "eager" else "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(base.dtype)
    try:
        # As if ZeRO-3 had cut the model up already: else one process would do so, and wait for the others for ever.
        with torch.device("meta"), set_zero3_state():
            return LlavaForConditionalGeneration(config).eval()
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
    counts = {"language_model": base.layers, "vision_tower": base.vision_layers}
    found = {}
    for name, weight in model.named_parameters():
        if (lora is not None) == (".lora_" in name):
            layer = LAYER.search(name)
            found[name] = (weight.shape, counts[layer[1]] if layer else 1)
    return found
