"""Tiny LLaVA-NeXT, on a Mistral as the released one of 7B."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    ProcessorMixin,
)

from tests.support.tiny_families.common import byte_tokenizer, spread

CONTROL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
SHAPES = [[28, 56], [56, 28], [56, 56], [84, 28]]
SIDE, PATCH = 28, 7
# As the released one on Mistral: images before all text, wherever they stand; an answer ends behind a space.
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def save_tiny_next(folder: Path) -> Path:
    """LLaVA-NeXT of two layers a side and tiles of 28 pixels, as a released base comes."""
    tokenizer = byte_tokenizer(CONTROL, "</s>", "<pad>", bos="<s>")
    config = LlavaNextConfig(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "sliding_window": None,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": 32,
        },
        image_token_index=CONTROL.index("<image>"),
        image_grid_pinpoints=SHAPES,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        spread(LlavaNextForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=SHAPES
    ).save_pretrained(folder)
    return folder


def next_processor(folder: Path) -> ProcessorMixin:
    """As transformers puts it together, from the parts of a base."""
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def native_tiles(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    """What `forward` wants of tiled pictures; as transformers' processors hand them over, padded to as many tiles."""
    if pixels is None:
        return {}
    tiles = torch.nn.utils.rnn.pad_sequence(pixels.split([grid[0] for grid in grids]), batch_first=True)
    return {"pixel_values": tiles, "image_sizes": torch.tensor([grid[1:] for grid in grids])}
