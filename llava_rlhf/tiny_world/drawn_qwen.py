"""The second world: clear pictures of many sizes and shapes, seen by a tiny `Qwen2_5_VLForConditionalGeneration`.

454 thousand parameters: a 2-layer tower over patches of 14 pixels, of which 2 x 2 make a position, and a 5-layer
language model with tied embeddings and positions of three dimensions. A picture takes 9 to 20 positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from data_utils.conversation import ChatTemplate
from data_utils.shapes_drawings import Drawing, draw_clean, sample_drawing
from data_utils.shapes_world import NAMES
from llava_rlhf.tiny_world.base_parts import replaced, start_matching
from llava_rlhf.tiny_world.kind import TinyKind
from llava_rlhf.tiny_world.plan import Plan
from llava_rlhf.tiny_world.tokenizer import CHAT_CONTROL, SPACE, build_chat_tokenizer
from models.families.base import Grid

HIDDEN = 64
LAYERS = 5
HEADS = 2
PATCH, MERGE, FRAMES = 14, 2, 2
# Around the light backgrounds, so that what differs from them stands out.
MEAN, STD = 0.9, 0.3
MAX_POSITIONS = 512
# How much of a name's embedding it shares at the start with the names of its colour and of its shape.
SHARED = 0.6
# As released Qwen2.5-VLs write a conversation: a system message where none is given, images where they stand.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
_OPENING = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
# The same in pieces, as `--version chat` finds them once the base is on disk.
PIECES = ChatTemplate(
    first=_OPENING,
    later="\n<|im_start|>user\n",
    first_image=_OPENING,
    later_image="\n<|im_start|>user\n",
    before_image="",
    after_image="",
    ask="<|im_end|>\n<|im_start|>assistant\n",
    lead="",
    stop="<|im_end|>",
    trims=False,
    control=("<|im_end|>", "<|im_start|>"),
)


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """The shape of the base."""
    ids = dict(zip(CHAT_CONTROL, tokenizer.convert_tokens_to_ids(list(CHAT_CONTROL)), strict=True))
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            "initializer_range": 1.0 / math.sqrt(HIDDEN),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": HEADS,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": FRAMES,
            "window_size": 8 * PATCH,
            "fullatt_block_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained tiny Qwen2.5-VL, drawn from torch's global random state."""
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    start_matching(model.model.language_model.layers)
    for name, weight in model.model.visual.named_parameters():
        if weight.dim() > 1:
            gain = 1.0 if name.startswith("patch_embed") else 0.8
            nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    _relate_names(model.get_input_embeddings().weight, tokenizer)
    return model


@torch.no_grad()
def _relate_names(words: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let names of one colour, and of one shape, begin alike: the tower learns either from all of its names."""
    parts = {part: torch.randn(HIDDEN) / math.sqrt(HIDDEN) for name in NAMES for part in name.split("-")}
    for name in NAMES:
        colour, shape = (parts[part] for part in name.split("-"))
        word = words[tokenizer.convert_tokens_to_ids(SPACE + name)]
        word.copy_(math.sqrt(1 - SHARED) * word + math.sqrt(SHARED / 2) * (colour + shape))


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen's preprocessing: sides become multiples of 28 pixels, 9 to 36 squares of them in all."""
    square = (PATCH * MERGE) ** 2
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 9 * square, "longest_edge": 36 * square},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


class DrawnQwen(TinyKind):
    """Scenes of `data_utils.shapes_drawings`."""

    pictures = "drawn"
    template = PIECES
    plan = Plan(
        naming_steps=1500,
        naming_batch=64,
        mixture_steps=1600,
        noise=(0.0, 0.0),
        facts_noise=(0.2, 0.6),
        nothing_weight=0.2,
        scenes=12000,
    )
    measured_noise = (0.0, 0.1, 0.2)
    build_tokenizer = staticmethod(build_chat_tokenizer)
    build_model = staticmethod(build_model)
    sample_scene = staticmethod(sample_drawing)

    def save_base(
        self, model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
    ) -> None:
        """As in the base class."""
        generation = GenerationConfig(
            eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
        )
        with replaced(folder) as draft:
            model.save_pretrained(draft)
            tokenizer.chat_template = CHAT_TEMPLATE
            tokenizer.save_pretrained(draft)
            self._processor.save_pretrained(draft)
            generation.save_pretrained(draft)

    @cached_property
    def _processor(self) -> Qwen2VLImageProcessorPil:
        return build_image_processor()

    def grid(self, scene: Drawing) -> Grid:
        """As in the base class."""
        return self._rows(scene)[1]

    @lru_cache(maxsize=16384)  # noqa: B019 - there is one object, for the life of the program
    def _rows(self, scene: Drawing) -> tuple[Tensor, Grid]:
        """The patches of a clean picture as bytes, without their second frame, and their grid."""
        found = self._processor([draw_clean(scene)], return_tensors="pt", do_normalize=False)
        _, rows, columns = found["image_grid_thw"][0].tolist()
        patches = found["pixel_values"].view(-1, 3, FRAMES, PATCH, PATCH)[:, :, 0]
        return (255 * patches).round().byte(), (rows * columns, rows, columns)

    def pixels(
        self, scenes: Sequence[Drawing], noise: tuple[float, float], rng: np.random.Generator
    ) -> Tensor:
        """As in the base class: float32[ΣP, 1176]."""
        clean = [self._rows(scene)[0] for scene in scenes]
        pixels = torch.cat(clean).float() / 255
        if noise != (0.0, 0.0):
            levels = np.repeat(rng.uniform(*noise, size=len(scenes)), [len(rows) for rows in clean])
            jitter = rng.standard_normal(pixels.shape, dtype=np.float32)
            pixels += torch.from_numpy(jitter * levels.astype(np.float32)[:, None, None, None])
            pixels = pixels.clamp(0, 1)
        return ((pixels - MEAN) / STD)[:, :, None].expand(-1, -1, FRAMES, -1, -1).reshape(len(pixels), -1)

    def classes(self, scene: Drawing) -> list[int]:
        """As in the base class: an object lies where its centre is."""
        _, rows, columns = self.grid(scene)
        places = np.full((rows // MERGE, columns // MERGE), len(NAMES))
        for placed in scene.objects:
            row = min(int(placed.y / scene.height * len(places)), len(places) - 1)
            column = min(int(placed.x / scene.width * places.shape[1]), places.shape[1] - 1)
            places[row, column] = NAMES.index(placed.name)
        return places.flatten().tolist()

    def native(self, ids: Tensor, grids: Sequence[Grid]) -> dict[str, Any]:
        """As in the base class."""
        image = CHAT_CONTROL.index("<|image_pad|>")
        return {
            "image_grid_thw": torch.tensor([(1, rows, columns) for _, rows, columns in grids]),
            "mm_token_type_ids": (ids == image).int(),
        }
