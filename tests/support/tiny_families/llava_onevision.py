"""Tiny LLaVA-OneVision."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    ProcessorMixin,
)

from tests.support.tiny_families.common import byte_tokenizer, spread, unchecked
from tests.support.tiny_families.llava_next import SHAPES

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
SIDE, PATCH = 28, 7
# Two tiles in place of the nine of the released ones: they have many more.
MOST = "anyres_max_2"
# Not the released one, which begins an answer otherwise when it is asked for than when it was given, and has one line break
# behind all images: those who use it must correct it. This is how LLaVA's own code writes a conversation for Qwen2.
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_onevision(folder: Path) -> Path:
    """LLaVA-OneVision of two layers a side and tiles of 28 pixels, as a released base comes, its template corrected."""
    tokenizer = byte_tokenizer(CONTROL, "<|im_end|>", "<|endoftext|>")
    config = LlavaOnevisionConfig(
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
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        image_token_index=CONTROL.index("<image>"),
        video_token_index=CONTROL.index("<video>"),
        image_grid_pinpoints=SHAPES,
        vision_aspect_ratio=MOST,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        spread(LlavaOnevisionForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=SHAPES
    ).save_pretrained(folder)
    return folder


def onevision_processor(folder: Path) -> ProcessorMixin:
    """As transformers puts it together, from the parts of a base."""
    images = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    return unchecked("LlavaOnevisionProcessor")(
        images,
        AutoTokenizer.from_pretrained(folder),
        None,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=MOST,
    )
