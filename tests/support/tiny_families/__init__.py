"""A tiny random base of every family, of the real classes, and what its own `forward` wants of pictures. A file each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

from torch import Tensor
from transformers import LlavaProcessor

from tests.support.tiers import tiered
from tests.support.tiny_families.common import TinyFamily
from tests.support.tiny_families.gemma3 import BEGIN_OF_IMAGE, gemma_processor, native_gemma, save_tiny_gemma3
from tests.support.tiny_families.idefics3 import (
    idefics_processor,
    native_idefics,
    save_tiny_idefics,
    save_tiny_smol,
)
from tests.support.tiny_families.internvl import (
    IMAGE,
    internvl_processor,
    native_internvl,
    save_tiny_internvl,
)
from tests.support.tiny_families.llava_next import native_tiles, next_processor, save_tiny_next
from tests.support.tiny_families.llava_onevision import onevision_processor, save_tiny_onevision
from tests.support.tiny_families.qwen import (
    WRITTEN,
    native_qwen,
    qwen_processor,
    save_tiny_qwen3,
    save_tiny_qwen25,
)
from tests.support.tiny_models import save_tiny_base

# It writes numbers of pictures of a video as words, and can't be made without what it does that with.
SMOL_PROCESSOR = partial(idefics_processor, "SmolVLMProcessor") if find_spec("num2words") else None


def _llava(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    return {} if pixels is None else {"pixel_values": pixels}


TINY_FAMILIES = (
    TinyFamily("llava", save_tiny_base, _llava, LlavaProcessor.from_pretrained, alike=True),
    TinyFamily(
        "qwen2_5_vl", save_tiny_qwen25, native_qwen, partial(qwen_processor, "Qwen2_5_VLProcessor"), WRITTEN
    ),
    TinyFamily(
        "qwen3_vl", save_tiny_qwen3, native_qwen, partial(qwen_processor, "Qwen3VLProcessor"), WRITTEN
    ),
    TinyFamily("llava_next", save_tiny_next, native_tiles, next_processor),
    TinyFamily("internvl", save_tiny_internvl, native_internvl, internvl_processor, IMAGE),
    TinyFamily("llava_onevision", save_tiny_onevision, native_tiles, onevision_processor),
    TinyFamily("gemma3", save_tiny_gemma3, native_gemma, gemma_processor, BEGIN_OF_IMAGE, alike=True),
    TinyFamily(
        "idefics3", save_tiny_idefics, native_idefics, partial(idefics_processor, "Idefics3Processor")
    ),
    TinyFamily("smolvlm", save_tiny_smol, native_idefics, SMOL_PROCESSOR),
)
# Of those besides LLaVA what quick tests of whole programs take, a picture in its own resolution, and what the daily ones take,
# another in tiles; all others are taken once a night.
QUICK_FAMILIES = ("qwen2_5_vl",)
DAILY_FAMILIES = ("qwen2_5_vl", "llava_next")
OTHERS = tuple(
    tiered(
        (family for family in TINY_FAMILIES if family.model_type != "llava"),
        quick=QUICK_FAMILIES,
        daily=DAILY_FAMILIES,
        name=lambda family: family.model_type,
    )
)
