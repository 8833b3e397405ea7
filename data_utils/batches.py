"""Items → typed, padded batches. Padding is known by position: no mask here ever comes from comparing ids.

Pixels of all rows lie in one tensor; `image_index` says, for each image slot in row order, which of them fills it.
Rows with several images, one image and none mix freely. Where a feature cache spares images their decoding, features
stand behind the pixels: index i < N is image i of `pixel_values` [N, …], index N + i entry i of `image_features`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.utils import ModelOutput

from data_utils.feature_files import StoredImages
from data_utils.items import DialogueItem, PairItem, PromptItem
from data_utils.tokens import expand_image_tokens

NO_LOSS = -100
ROWS = "rows"  # of a batch of the Trainer programs: the numbers of its rows in the data file
FILL = -1  # the row number of a row that only fills a step


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
    """B preference pairs as 2B right-padded rows: rows 2i and 2i + 1 are outputs 1 and 2 of pair i.

    input_ids int64 [2B, L], image tokens expanded; attention_mask bool [2B, L], True = real token;
    choice int64 [B], 1 where output 2 is preferred, else 0; image_index int64 [S] into pixel_values (both
    rows of a pair name the same images); pixel_values float32 [N, 3, H, W], absent without images. With a feature cache
    image_keys uint8 [N, 32] say which images they are, and image_features bfloat16 [C, K, D] are those of C others.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    choice: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    image_keys: torch.Tensor | None = None


@dataclass
class DialogueBatch(_Batch):
    """B right-padded dialogues.

    input_ids int64 [B, L], image tokens expanded; attention_mask bool [B, L], True = real token; labels
    int64 [B, L], the token itself where it carries loss, else -100 (unshifted); image_index int64 [S],
    pixel_values float32 [N, 3, H, W], image_features and image_keys as in PairBatch.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    image_keys: torch.Tensor | None = None


@dataclass(frozen=True)
class ImageBatch:
    """pixel_values float32 [N, 3, H, W], None without any; image_index int64 [S], one entry a slot; others as in PairBatch."""

    pixel_values: torch.Tensor | None
    image_index: torch.Tensor
    image_features: torch.Tensor | None = None
    image_keys: torch.Tensor | None = None

    def only(self, images: Sequence[int]) -> ImageBatch:
        """These images alone, by their index, with one slot each."""
        count = 0 if self.pixel_values is None else len(self.pixel_values)
        new = [image for image in images if image < count]
        stored = [image - count for image in images if image >= count]
        places = {image: place for place, image in enumerate([*new, *(index + count for index in stored)])}
        return ImageBatch(
            self.pixel_values[new] if new else None,
            torch.tensor([places[image] for image in images], dtype=torch.int64),
            self.image_features[stored] if stored else None,
            self.image_keys[new] if new and self.image_keys is not None else None,
        )


@dataclass(frozen=True)
class PromptBatch:
    """PPO prompts with their images; `reward_images` is None when the reward model shares the policy's tower."""

    items: list[PromptItem]
    images: ImageBatch
    reward_images: ImageBatch | None


@dataclass(frozen=True)
class _Collator:
    """`tokens_per_image` positions stand for each image."""

    pad_id: int
    image_token_id: int
    tokens_per_image: int


class PairCollator(_Collator):
    """PairItems → PairBatch."""

    def __call__(self, items: Sequence[PairItem]) -> PairBatch:
        rows = [
            expand_image_tokens(ids, self.image_token_id, self.tokens_per_image)
            for item in items
            for ids in item.input_ids
        ]
        input_ids, mask = right_pad(rows, self.pad_id)
        images = _images([(item.images, item.stored) for item in items], uses=2)
        choice = torch.tensor([int(item.preference == 2) for item in items])
        return PairBatch(input_ids, mask, choice, **vars(images))


class DialogueCollator(_Collator):
    """DialogueItems → DialogueBatch."""

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
        images = _images([(item.images, item.stored) for item in items], uses=1)
        return DialogueBatch(input_ids, mask, right_pad(labels, NO_LOSS)[0], **vars(images))


def collate_prompts(items: Sequence[PromptItem]) -> PromptBatch:
    """PromptItems → PromptBatch, in order."""
    reward = [(item.reward_images, item.reward_stored) for item in items]
    shared = all(images is None for images, _ in reward)
    return PromptBatch(
        # A worker process copies what it hands over: features once.
        items=[replace(item, stored=None, reward_stored=None) for item in items],
        images=_images([(item.images, item.stored) for item in items], uses=1),
        reward_images=None if shared else _images(reward, uses=1),
    )


def _images(rows: Iterable[tuple[torch.Tensor, StoredImages | None]], uses: int) -> ImageBatch:
    """Images of rows, pixels [n_i, 3, H, W] and what is stored, in one batch; a row's slots are listed `uses` times."""
    rows = list(rows)
    pixels = torch.cat([images for images, _ in rows]) if any(len(images) for images, _ in rows) else None
    new, behind = 0, 0 if pixels is None else len(pixels)
    index, keys, features = [], [], []
    for images, stored in rows:
        known = (None,) * len(images) if stored is None else stored.features
        slots = []
        for found in known:
            slots.append(new if found is None else behind + len(features))
            new += found is None
            features += [] if found is None else [found]
        index += slots * uses
        if stored is not None:
            asked = [key for key, found in zip(stored.keys, known, strict=True) if found is None]
            keys += [list(bytes.fromhex(key)) for key in asked]
    return ImageBatch(
        pixels,
        torch.tensor(index, dtype=torch.int64),
        torch.stack(features) if features else None,
        torch.tensor(keys, dtype=torch.uint8) if keys else None,
    )


def _matrix(rows: list[list], dtype: torch.dtype, length: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).reshape(len(rows), length)


@dataclass(frozen=True)
class WholeStepsCollator:
    """Numbered items → the batch of `collate` as a dictionary, with `rows` int64[B].

    At rows that only fill a step, `labels` int64[B, L] or `choice` int64[B] are −100.
    """

    collate: Callable[[Sequence[Any]], Mapping[str, torch.Tensor]]

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, torch.Tensor]:
        batch = dict(self.collate([item for _, item in items]))
        rows = torch.tensor([number for number, _ in items])
        for name in {"labels", "choice"} & batch.keys():
            batch[name][rows == FILL] = NO_LOSS
        return {**batch, ROWS: rows}
