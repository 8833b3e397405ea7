"""Tiny Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.support.tiny_families.common import byte_tokenizer, spread, unchecked

QWEN_CONTROL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
# As released Qwen2.5-VLs write a conversation: a system message where none is given, images where they stand.
QWEN_CHAT = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As released Qwen3-VLs: the same without a system message of its own.
QWEN3_CHAT = QWEN_CHAT.replace("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "")


def save_tiny_qwen25(folder: Path, width: int = 64) -> Path:
    """Qwen2.5-VL of two layers a side, as a released base comes; one of its vision layers sees windows only.

    `width` of the language model: 64 or another number of heads of 16.
    """
    tokenizer = byte_tokenizer(QWEN_CONTROL, "<|im_end|>", "<|endoftext|>")
    ids = dict(zip(QWEN_CONTROL, tokenizer.convert_tokens_to_ids(list(QWEN_CONTROL)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": width // 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        model = spread(Qwen2_5_VLForConditionalGeneration(config))
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.save_pretrained(folder)
    tokenizer.chat_template = QWEN_CHAT
    tokenizer.save_pretrained(folder)
    edges = {"shortest_edge": 4 * 28**2, "longest_edge": 16 * 28**2}
    Qwen2VLImageProcessorPil(size=edges, patch_size=14).save_pretrained(folder)
    return folder


def save_tiny_qwen3(folder: Path) -> Path:
    """Qwen3-VL of three vision layers, of which two are read by the first layers of the language model."""
    tokenizer = byte_tokenizer(QWEN_CONTROL, "<|im_end|>", "<|endoftext|>")
    ids = dict(zip(QWEN_CONTROL, tokenizer.convert_tokens_to_ids(list(QWEN_CONTROL)), strict=True))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        model = spread(Qwen3VLForConditionalGeneration(config))
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.save_pretrained(folder)
    tokenizer.chat_template = QWEN3_CHAT
    tokenizer.save_pretrained(folder)
    edges = {"shortest_edge": 4 * 32**2, "longest_edge": 16 * 32**2}
    Qwen2VLImageProcessorPil(size=edges, patch_size=16).save_pretrained(folder)
    return folder


WRITTEN = "<|vision_start|><|image_pad|><|vision_end|>"


def qwen_processor(name: str, folder: Path) -> ProcessorMixin:
    """As transformers puts it together, from the parts of a base."""
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return unchecked(name)(images, AutoTokenizer.from_pretrained(folder), None)


def native_qwen(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    kinds = {"mm_token_type_ids": (ids == QWEN_CONTROL.index("<|image_pad|>")).int()}
    if pixels is None:
        return kinds
    return {**kinds, "pixel_values": pixels, "image_grid_thw": torch.tensor([(1, h, w) for _, h, w in grids])}
