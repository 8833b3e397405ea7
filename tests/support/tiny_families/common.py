"""What the tiny bases of all families are made with: pictures, wide weights, a byte-level tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

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
        processor: the folder of a base → its `Processor` of transformers; None: it can't be built here.
        written: what a chat template writes for a picture, which that processor replaces.
        alike: whether all pictures take the same number of positions.
    """

    model_type: str
    save: Callable[[Path], Path]
    native: Callable[[Tensor, Tensor | None, Sequence[tuple[int, ...]]], dict[str, Tensor]]
    processor: Callable[[Path], ProcessorMixin] | None = None
    written: str = "<image>"
    alike: bool = False


def unchecked(name: str) -> type[ProcessorMixin]:
    """A `Processor` of transformers that can be made without a video processor, whose classes need torchvision."""
    return type(
        name,
        (getattr(transformers, name),),
        {"check_argument_for_proper_class": lambda self, *arguments: None},
    )


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


def byte_tokenizer(
    control: Sequence[str], eos: str, pad: str, bos: str | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, without a begin-of-text token where none is named, as Qwen's; control tokens have the first ids."""
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
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
    )
