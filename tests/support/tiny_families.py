"""A tiny random base of every family, of the real classes, and what its own `forward` wants of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.support.tiny_models import save_tiny_base

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
SPOKEN = (
    "what is in the image? describe the picture. there is a red circle on the left, a green square on the right. "
    "system user assistant You are a helpful assistant. yes no USER: ASSISTANT:\n"
)


@dataclass(frozen=True)
class TinyFamily:
    """A family as the tests ask it.

    Attributes:
        model_type: in the registry.
        save: writes a base to a folder, which it returns.
        native: ids int64[B, L], pixels and grids of their pictures → what `forward` of transformers wants besides.
    """

    model_type: str
    save: Callable[[Path], Path]
    native: Callable[[Tensor, Tensor | None, Sequence[tuple[int, ...]]], dict[str, Tensor]]


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Coarse noise, which any processor keeps apart from other noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def spread(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Weights wide enough that outputs depend on every token and every picture."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.data.normal_(0, 1 / math.sqrt(parameter.shape[1:].numel()), generator=generator)
        else:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def byte_tokenizer(control: Sequence[str], eos: str, pad: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE without a begin-of-text token, as Qwen's; control tokens have the first ids."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([SPOKEN * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token=pad, clean_up_tokenization_spaces=False
    )


def save_tiny_qwen25(folder: Path) -> Path:
    """Qwen2.5-VL of two layers a side, as a released base comes; one of its vision layers sees windows only."""
    tokenizer = byte_tokenizer(QWEN_CONTROL, "<|im_end|>", "<|endoftext|>")
    ids = dict(zip(QWEN_CONTROL, tokenizer.convert_tokens_to_ids(list(QWEN_CONTROL)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
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
            "out_hidden_size": 64,
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
        spread(Qwen2_5_VLForConditionalGeneration(config)).save_pretrained(folder)
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
        spread(Qwen3VLForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.chat_template = QWEN3_CHAT
    tokenizer.save_pretrained(folder)
    edges = {"shortest_edge": 4 * 32**2, "longest_edge": 16 * 32**2}
    Qwen2VLImageProcessorPil(size=edges, patch_size=16).save_pretrained(folder)
    return folder


def _llava(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    return {} if pixels is None else {"pixel_values": pixels}


def _qwen(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    kinds = {"mm_token_type_ids": (ids == QWEN_CONTROL.index("<|image_pad|>")).int()}
    if pixels is None:
        return kinds
    return {**kinds, "pixel_values": pixels, "image_grid_thw": torch.tensor([(1, h, w) for _, h, w in grids])}


TINY_FAMILIES = (
    TinyFamily("llava", save_tiny_base, _llava),
    TinyFamily("qwen2_5_vl", save_tiny_qwen25, _qwen),
    TinyFamily("qwen3_vl", save_tiny_qwen3, _qwen),
)
