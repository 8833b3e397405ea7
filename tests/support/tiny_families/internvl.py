"""Tiny InternVL3, on a Qwen2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    ProcessorMixin,
)

from tests.support.tiny_families.common import byte_tokenizer, spread, unchecked

CONTROL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
)
SIDE, FEATURES = 56, 4  # of a tile
IMAGE = "<IMG_CONTEXT>"
# As the released ones: no system message of their own, a line break behind every image.
CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_internvl(folder: Path) -> Path:
    """InternVL3 of two layers a side and up to four tiles of 56 pixels, as a released base comes."""
    tokenizer = byte_tokenizer(CONTROL, "<|im_end|>", "<|endoftext|>")
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "bos_token_id": CONTROL.index("<|endoftext|>"),
            "eos_token_id": CONTROL.index("<|im_end|>"),
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": [SIDE, SIDE],
            "patch_size": [14, 14],
        },
        image_token_id=CONTROL.index(IMAGE),
        image_seq_length=FEATURES,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        spread(InternVLForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=False, min_patches=1, max_patches=4
    ).save_pretrained(folder)
    return folder


def internvl_processor(folder: Path) -> ProcessorMixin:
    """As transformers puts it together, from the parts of a base."""
    tokenizer = AutoTokenizer.from_pretrained(
        folder,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": IMAGE,
            "video_token": "<video>",
        },
    )
    images = GotOcr2ImageProcessorPil.from_pretrained(folder)
    return unchecked("InternVLProcessor")(images, tokenizer, None, image_seq_length=FEATURES)


def native_internvl(
    ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]
) -> dict[str, Tensor]:
    return {} if pixels is None else {"pixel_values": pixels}
