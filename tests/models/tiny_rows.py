"""Rows for the model tests: token ids with images expanded to their positions, padded on either side."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tests.support.tiny_models import BOS, IMAGE, PAD, TinyShape

SHAPE = TinyShape()
FIRST_WORD = 16  # ids from here on are plain words
# float[3, 3, 28, 28]: the three images that rows refer to by index.
PIXELS = torch.randn(3, 3, SHAPE.image_size, SHAPE.image_size, generator=torch.Generator().manual_seed(7))


class Row(NamedTuple):
    """Expanded ids, and for each image in them its index in `PIXELS`."""

    ids: list[int]
    images: tuple[int, ...]


class Batch(NamedTuple):
    """Padded rows: int64[B, L], bool[B, L], and the indices of all their images in row order."""

    input_ids: Tensor
    mask: Tensor
    image_index: Tensor


def make_row(words: int, images: tuple[int, ...] = (), seed: int = 0) -> Row:
    """BOS, then `words` random words with one image after each of the first ones."""
    text = torch.randint(FIRST_WORD, 80, (words,), generator=torch.Generator().manual_seed(seed)).tolist()
    ids = [BOS]
    for position, word in enumerate(text):
        ids.append(word)
        ids += [IMAGE] * (SHAPE.tokens_per_image if position < len(images) else 0)
    return Row(ids, images)


TEXT = make_row(9, seed=1)
IMAGE_ROW = make_row(5, images=(0,), seed=2)
TWO_IMAGES = make_row(4, images=(2, 1), seed=3)
SHARED_IMAGE = make_row(8, images=(0,), seed=4)
IMAGE_FIRST = Row([BOS] + [IMAGE] * SHAPE.tokens_per_image + [40, 50, 60], (1,))
MIXED = (IMAGE_ROW, TEXT, TWO_IMAGES, SHARED_IMAGE, IMAGE_FIRST)


def pad(rows: tuple[Row, ...], side: str = "left", extra: int = 0) -> Batch:
    """Pad `rows` on one side to the longest, plus `extra` columns."""
    length = max(len(row.ids) for row in rows) + extra
    input_ids = torch.full((len(rows), length), PAD)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        n = len(row.ids)
        columns = slice(length - n, length) if side == "left" else slice(0, n)
        input_ids[index, columns] = torch.tensor(row.ids)
        mask[index, columns] = True
    images = [image for row in rows for image in row.images]
    return Batch(input_ids, mask, torch.tensor(images, dtype=torch.long))


def last_columns(input_ids: torch.Tensor, width: int) -> torch.Tensor:
    """int64[B, width]: the last columns of int64[B, L], where responses stand behind left-padded prompts."""
    length = input_ids.shape[1]
    return torch.arange(length - width, length).expand(len(input_ids), width)


def greedy_answers(model: LlavaForConditionalGeneration, batch: Batch, **options: Any) -> Tensor:
    """Hugging Face's greedy answers to rows with padding in front, without their prompts; `model` is in eval mode."""
    with torch.no_grad():
        whole = model.generate(
            input_ids=batch.input_ids,
            pixel_values=PIXELS[batch.image_index],
            attention_mask=batch.mask.long(),
            do_sample=False,
            pad_token_id=PAD,
            **options,
        )
    return whole[:, batch.input_ids.shape[1] :]
