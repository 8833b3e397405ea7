"""Tiny Idefics3 and SmolVLM2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

from tests.support.tiny_families.common import byte_tokenizer, spread, unchecked

CONTROL = (
    *("<|endoftext|>", "<|im_start|>", "<end_of_utterance>"),
    *("<image>", "<fake_token_around_image>", "<global-img>", "<|begin_of_text|>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
)
# As released ones write a conversation: no space behind a role whose message begins with an image.
CHAT = (
    "<|begin_of_text|>{% for message in messages %}{{ message.role.capitalize() }}"
    "{{ ':' if message.content[0].type == 'image' else ': ' }}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Pixels of a tile's side: patches of 14 leave four of a SmolVLM's out, as those of released ones leave six of 384 out.
IDEFICS_TILE, SMOL_TILE = 56, 60
TILE_POSITIONS = 4


def save_tiny_idefics(folder: Path) -> Path:
    """Idefics3 with a head of its own, and pictures of up to four times four tiles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        config = Idefics3Config(**_parts(IDEFICS_TILE), tie_word_embeddings=False)
        spread(Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    _save_tokenizer(folder, "<|begin_of_text|>", CHAT)
    Idefics3ImageProcessorPil(**_sizes(IDEFICS_TILE)).save_pretrained(folder)
    return folder


def save_tiny_smol(folder: Path) -> Path:
    """SmolVLM2 whose head is its embeddings, as in the smallest released ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        config = SmolVLMConfig(**_parts(SMOL_TILE), tie_word_embeddings=True)
        spread(SmolVLMForConditionalGeneration(config)).save_pretrained(folder)
    _save_tokenizer(folder, "<|im_start|>", CHAT.replace("<|begin_of_text|>", "<|im_start|>"))
    SmolVLMImageProcessorPil(**_sizes(SMOL_TILE)).save_pretrained(folder)
    return folder


def native_idefics(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    """Pictures in the order of the rows: how many belong to each of them, the model does not ask."""
    return {} if pixels is None else {"pixel_values": pixels[None]}


def idefics_processor(name: str, folder: Path) -> ProcessorMixin:
    """As transformers puts it together, from the parts of a base."""
    images, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    videos = {} if name.startswith("Idefics") else {"video_processor": None}
    return unchecked(name)(images, tokenizer, **videos, image_seq_len=TILE_POSITIONS)


def _parts(tile: int) -> dict[str, object]:
    tokenizer = _tokenizer("<|im_start|>")
    return {
        "text_config": {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "bos_token_id": CONTROL.index("<|im_start|>"),
            "eos_token_id": CONTROL.index("<end_of_utterance>"),
            "pad_token_id": CONTROL.index("<|endoftext|>"),
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": tile,
            "patch_size": 14,
        },
        "image_token_id": CONTROL.index("<image>"),
        "scale_factor": 2,
    }


def _sizes(tile: int) -> dict[str, object]:
    return {"size": {"longest_edge": 4 * tile}, "max_image_size": {"longest_edge": tile}}


def _tokenizer(bos: str) -> PreTrainedTokenizerFast:
    return byte_tokenizer(CONTROL, "<end_of_utterance>", "<|endoftext|>", bos)


def _save_tokenizer(folder: Path, bos: str, chat_template: str) -> None:
    tokenizer = _tokenizer(bos)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
