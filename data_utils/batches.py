"""Items → typed, padded batches. Padding is known by position: no mask here ever comes from comparing ids.

Pixels of all rows lie in one tensor; `image_index` says, for each image slot in row order, which of them fills it.
Rows with several images, one image and none mix freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from data_utils.datasets import DialogueItem, PairItem, PromptItem
from data_utils.tokens import expand_image_tokens

NO_LOSS = -100


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids → ids int64 [B, L] and mask bool [B, L] (True = real token), padding in front."""
    length = max(map(len, rows), default=0)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[False] * (length - len(row)) + [True] * len(row) for row in rows]
    return _matrix(ids, torch.int64, length), _matrix(mask, torch.bool, length)


def right_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids → ids int64 [B, L] and mask bool [B, L] (True = real token), padding behind."""
    length = max(map(len, rows), default=0)
    ids = [list(row) + [pad_id] * (length - len(row)) for row in rows]
    mask = [[True] * len(row) + [False] * (length - len(row)) for row in rows]
    return _matrix(ids, torch.int64, length), _matrix(mask, torch.bool, length)


@dataclass
class _Batch(ModelOutput):
    """A mapping of tensors that Trainer and accelerate move between devices without changing its class."""

    def pin_memory(self) -> _Batch:
        # DataLoader would otherwise copy and update() the mapping, which ModelOutput forbids.
        return type(self)({name: tensor.pin_memory() for name, tensor in self.items()})


@dataclass
class PairBatch(_Batch):
    """B judged pairs as 2B right-padded rows: rows 2i and 2i + 1 are outputs 1 and 2 of pair i.

    input_ids int64 [2B, L], image tokens expanded; attention_mask bool [2B, L], True = real token;
    choice int64 [B], 1 where output 2 is preferred, else 0; image_index int64 [S] into pixel_values (both
    rows of a pair name the same images); pixel_values float32 [N, 3, H, W], absent without images.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    choice: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None


@dataclass
class DialogueBatch(_Batch):
    """B right-padded dialogues.

    input_ids int64 [B, L], image tokens expanded; attention_mask bool [B, L], True = real token; labels
    int64 [B, L], the token itself where it carries loss, else -100 (unshifted); image_index int64 [S] and
    pixel_values float32 [N, 3, H, W] as in PairBatch.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None


@dataclass(frozen=True)
class ImageBatch:
    """pixel_values float32 [N, 3, H, W], None without images; image_index int64 [S], one entry a slot."""

    pixel_values: torch.Tensor | None
    image_index: torch.Tensor


@dataclass(frozen=True)
class PromptBatch:
    """PPO prompts with their images; `reward_images` is None when the judge shares the policy's tower."""

    items: list[PromptItem]
    images: ImageBatch
    reward_images: ImageBatch | None


@dataclass(frozen=True)
class PairCollator:
    """PairItems → PairBatch; `tokens_per_image` positions stand for each image."""

    pad_id: int
    image_token_id: int
    tokens_per_image: int

    def __call__(self, items: Sequence[PairItem]) -> PairBatch:
        rows = [
            expand_image_tokens(ids, self.image_token_id, self.tokens_per_image)
            for item in items
            for ids in item.input_ids
        ]
        input_ids, mask = right_pad(rows, self.pad_id)
        images = _images([item.images for item in items], uses=2)
        choice = torch.tensor([int(item.preference == 2) for item in items])
        return PairBatch(input_ids, mask, choice, images.image_index, images.pixel_values)


@dataclass(frozen=True)
class DialogueCollator:
    """DialogueItems → DialogueBatch; `tokens_per_image` positions stand for each image."""

    pad_id: int
    image_token_id: int
    tokens_per_image: int

    def __call__(self, items: Sequence[DialogueItem]) -> DialogueBatch:
        rows, labels = [], []
        for item in items:
            row: list[int] = []
            target: list[int] = []
            for index, loss in zip(item.input_ids, item.supervised, strict=True):
                count = self.tokens_per_image if index == self.image_token_id else 1
                row += [index] * count
                target += [index if loss else NO_LOSS] * count
            rows.append(row)
            labels.append(target)
        input_ids, mask = right_pad(rows, self.pad_id)
        images = _images([item.images for item in items], uses=1)
        return DialogueBatch(
            input_ids, mask, right_pad(labels, NO_LOSS)[0], images.image_index, images.pixel_values
        )


def collate_prompts(items: Sequence[PromptItem]) -> PromptBatch:
    """PromptItems → PromptBatch, in order."""
    judged = [item.reward_images for item in items]
    shared = all(images is None for images in judged)
    return PromptBatch(
        items=list(items),
        images=_images([item.images for item in items], uses=1),
        reward_images=None if shared else _images(judged, uses=1),
    )


def _images(images: Iterable[torch.Tensor], uses: int) -> ImageBatch:
    """Pixels of rows [n_i, 3, H, W] in one tensor; each row's slots are listed `uses` times in a row."""
    images = list(images)
    index, start = [], 0
    for pixels in images:
        index += list(range(start, start + len(pixels))) * uses
        start += len(pixels)
    return ImageBatch(torch.cat(images) if start else None, torch.tensor(index, dtype=torch.int64))


def _matrix(rows: list[list], dtype: torch.dtype, length: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).reshape(len(rows), length)
