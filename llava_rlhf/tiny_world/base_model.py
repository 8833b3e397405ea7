"""The tiny base as Hugging Face parts: an untrained `LlavaForConditionalGeneration`, its image processor, saving.

About 336 thousand parameters: a 2-layer CLIP tower that sees 2 x 2 patches, LLaVA's 2-layer projector and a 5-layer
LLaMA with tied embeddings. The features come from the tower's last layer: it has no layer to spare.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from data_utils.conversation import TEMPLATES
from data_utils.shapes_world import CELL_SIZE, CELLS, IMAGE_SIZE
from llava_rlhf.conversion.plain_files import (
    plain_generation_config,
    plain_processor,
    plain_tokenizer,
    save_plain_files,
)
from llava_rlhf.conversion.published_names import publish_names

HIDDEN = 64
LAYERS = 5
HEADS = 2
MEAN = STD = 0.5
# A reward prompt with two captions is about 75 tokens; several turns about 120.
MAX_POSITIONS = 512


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """An untrained tiny LLaVA, drawn from torch's global random state.

    Queries start equal to keys in every attention layer, so that from the first step a token attends to tokens that
    look like it: matching a word with a word or with an image feature is what all tasks of this world are made of.
    """
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=1.0 / math.sqrt(HIDDEN),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        image_size=IMAGE_SIZE,
        patch_size=CELL_SIZE,
        projection_dim=HIDDEN,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_seq_length=CELLS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        for weight in (parameter for parameter in layer.parameters() if parameter.dim() == 2):
            nn.init.normal_(weight, std=0.8 / math.sqrt(weight.shape[1]))
        with torch.no_grad():
            layer.self_attn.q_proj.weight.copy_(layer.self_attn.k_proj.weight)
    return model


def build_image_processor() -> CLIPImageProcessorPil:
    """CLIP preprocessing at 32 pixels: pixels to [-1, 1]."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


def save_base(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model, tokenizer and processor to `folder`, whole or not at all (any former content is replaced)."""
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    publish_names(draft)
    processor = plain_processor(
        build_image_processor(), plain_tokenizer(tokenizer), model.config, TEMPLATES["tiny"], "pad"
    )
    save_plain_files(draft, processor, plain_generation_config(tokenizer, model.config))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
