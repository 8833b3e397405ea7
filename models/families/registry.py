"""The families there are, found by what `config.json` calls a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.families.base import Family
from models.families.gemma3 import Gemma3
from models.families.idefics3 import Idefics3
from models.families.internvl import InternVL
from models.families.llava import Llava
from models.families.llava_next import LlavaNext
from models.families.llava_onevision import LlavaOnevision
from models.families.qwen2_5_vl import Qwen25VL
from models.families.qwen3_vl import Qwen3VL
from models.families.smolvlm import SmolVLM

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES: dict[str, type[Family]] = {
    family.model_type: family
    for family in (
        Llava,
        Qwen25VL,
        Qwen3VL,
        LlavaNext,
        InternVL,
        LlavaOnevision,
        Gemma3,
        Idefics3,
        SmolVLM,
    )
}

# model_type → why no family of it stands here; what was measured: docs/families.md.
REFUSED = {
    "qwen3_5": "three of four of its layers keep a recurrent state: adapters can't be put on them here, and in float32 a "
    "padded row is not what it is alone"
}


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a configuration. Raises ValueError, with the list of families, for a model of another kind."""
    if config.model_type not in FAMILIES:
        raise ValueError(f"model_type {config.model_type!r} is not supported (only {', '.join(FAMILIES)})")
    return FAMILIES[config.model_type](config)
