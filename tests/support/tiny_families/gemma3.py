"""Tiny Gemma 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    PreTrainedTokenizerFast,
)

from tests.support.tiny_families.common import SPOKEN, spread

GEMMA_CONTROL = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
BEGIN_OF_IMAGE = "<start_of_image>"
IMAGE_SIDE, POSITIONS = 56, 4
# As released Gemmas write a conversation: begin of text first, a system text within the first question, all text trimmed.
GEMMA_CHAT = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}"
    "{% set system = (messages[0].content if messages[0].content is string else messages[0].content[0].text) + '\n\n' %}"
    "{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{{ system if loop.first else '' }}"
    "{% if message.content is string %}{{ message.content | trim }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def save_tiny_gemma3(folder: Path) -> Path:
    """Gemma 3 whose window is shorter than the rows, and with more embeddings than tokens, as a released base comes."""
    tokenizer = gemma_tokenizer()
    ids = dict(zip(GEMMA_CONTROL, tokenizer.convert_tokens_to_ids(list(GEMMA_CONTROL)), strict=True))
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer) + 7,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 10,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "max_position_embeddings": 1024,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIDE,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=POSITIONS,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        eos_token_id=[ids["<eos>"], ids["<end_of_turn>"]],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of weights that `spread` adds to
        spread(Gemma3ForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.chat_template = GEMMA_CHAT
    tokenizer.save_pretrained(folder)
    Gemma3ImageProcessorPil(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}).save_pretrained(folder)
    return folder


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Sentencepiece BPE that falls back to bytes, puts no space in front, and has a token for each run of line breaks."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=list(GEMMA_CONTROL), show_progress=False)
    backend.train_from_iterator([SPOKEN * 3], trainer)
    spec = json.loads(backend.to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary |= {f"<0x{value:02X}>": len(vocabulary) + value for value in range(256)}
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.add_tokens([AddedToken("\n" * count, normalized=False) for count in range(2, 6)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        clean_up_tokenization_spaces=False,
    )


def native_gemma(ids: Tensor, pixels: Tensor | None, grids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    kinds = {"token_type_ids": (ids == GEMMA_CONTROL.index("<image_soft_token>")).long()}
    return kinds if pixels is None else {**kinds, "pixel_values": pixels}


def gemma_processor(folder: Path) -> Gemma3Processor:
    images, tokenizer = (part.from_pretrained(folder) for part in (Gemma3ImageProcessorPil, AutoTokenizer))
    return Gemma3Processor(images, tokenizer, image_seq_length=POSITIONS)
