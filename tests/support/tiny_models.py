"""Tiny random bases of the real classes, saved as Hugging Face folders that every program can load.

Weights are drawn wider than Hugging Face's 0.02, so that outputs really depend on every token and every image.
"""

from __future__ import annotations

import math
import shutil
import string
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPACE = "▁"
CONTROL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
UNK, BOS, STOP, IMAGE, PAD = range(5)
PATCH_SIZE = 14
UNLOADABLE = "language_model.model.layers.0.input_layernorm.weight"
LINE_STARTS = ("what", "which", "how", "is", "are", "the")
WORDS = (
    "USER ASSISTANT a an the is are in on of and with what which how many there this that it image picture photo shows "
    "cat dog bird car tree table red green blue white black big small one two three left right yes no Yes No not answer "
    "good bad score caption facts following response"
).split()


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a tiny base; `image_size` 28, 42 or 56 pixels gives 4, 9 or 16 positions an image."""

    hidden: int = 64
    layers: int = 2
    image_size: int = 28
    seed: int = 0

    @property
    def tokens_per_image(self) -> int:
        """Positions that one image takes in the language model."""
        return (self.image_size // PATCH_SIZE) ** 2


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One id a word, with the space before it (`▁the`); digits, capitals and punctuation are words; others `<unk>`."""
    bare = [*CONTROL, SPACE, *".,?:!'\n-", *WORDS[:2], *LINE_STARTS]
    spaced = [SPACE + word for word in [*WORDS, *"ABCDE", *string.digits[:4]]]
    ids = {token: index for index, token in enumerate(bare + spaced)}
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    marks = pre_tokenizers.Split(Regex(r"[.,?:!'\n-]"), behavior="isolated")
    decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return tokenizer_of_words(ids, pre_tokenizers.Sequence([words, marks]), decoder)


def tokenizer_of_words(
    ids: dict[str, int], splitter: pre_tokenizers.PreTokenizer, decoder: decoders.Decoder | None = None
) -> PreTrainedTokenizerFast:
    """One id a word, the control tokens among them; what `splitter` makes of a text is looked up in `ids`."""
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = splitter
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )


def tiny_llava(shape: TinyShape = TinyShape()) -> LlavaForConditionalGeneration:
    """A random `LlavaForConditionalGeneration` in float32 eval mode; torch's global random state is left as it was."""
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=shape.hidden,
            intermediate_size=2 * shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=BOS,
            eos_token_id=STOP,
            pad_token_id=PAD,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=shape.image_size,
            patch_size=PATCH_SIZE,
            projection_dim=32,
        ),
        image_token_index=IMAGE,
        image_seq_length=shape.tokens_per_image,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1.0 / math.sqrt(parameter.shape[1]))
    return model.eval()


def save_unloadable_copy(base: Path, folder: Path) -> Path:
    """A base (in one file) that can be read and told by its weights, but not loaded: one has a wrong shape; returns it."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights[UNLOADABLE] = weights[UNLOADABLE][:3].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_tiny_base(folder: Path, shape: TinyShape = TinyShape()) -> Path:
    """Write model, tokenizer and image processor to `folder` (created), as a released base comes; returns it."""
    tiny_llava(shape).save_pretrained(folder)
    save_tiny_processor(folder, shape.image_size)
    return folder


def save_tiny_processor(folder: Path, size: int) -> None:
    """Write the tokenizer, and an image processor of `size` pixels, to the folder of a model."""
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
