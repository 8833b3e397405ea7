"""Items → typed, padded batches. Padding is known by position: no mask here ever comes from comparing ids.

Pixels of all rows lie in one tensor; `image_index` says, for each image slot in row order, which of them fills it.
Rows with several images, one image and none mix freely. Where a feature cache spares images their decoding, features
stand behind the pixels: index i < N is image i of `pixel_values`, index N + i entry i of `image_features`. Images that
are not all alike have `image_grids` int64 [N + C, G]: how each is cut up, first its number of rows in `pixel_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
from transformers.utils import ModelOutput

from data_utils.feature_files import StoredImages
from data_utils.items import DialogueItem, Grids, PairItem, PromptItem
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


def right_pad(
    rows: Sequence[Sequence[int]], pad_id: int, multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids → ids int64 [B, L] and mask bool [B, L] (True = real token), padding behind; L divides by `multiple`."""
    length = -(-max(map(len, rows), default=0) // multiple) * multiple
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
    choice int64 [B], 1 where output 2 is preferred, else 0; image_index int64 [S] into the N images (both
    rows of a pair name the same images); pixel_values float32 [ΣP, …] (images that are all alike: [N, 3, H, W]), absent
    without images; image_grids int64 [N + C, G] where they are not. With a feature cache image_keys uint8 [N, 32] say which
    images they are, and those of C others are image_features bfloat16 [ΣK, W], image_lengths int64 [C] positions each.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    choice: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    image_grids: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    image_lengths: torch.Tensor | None = None
    image_keys: torch.Tensor | None = None


@dataclass
class DialogueBatch(_Batch):
    """B right-padded dialogues.

    input_ids int64 [B, L], image tokens expanded; attention_mask bool [B, L], True = real token; labels
    int64 [B, L], the token itself where it carries loss, else -100 (unshifted); image_index int64 [S] and the other
    fields of images as in PairBatch.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    image_grids: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    image_lengths: torch.Tensor | None = None
    image_keys: torch.Tensor | None = None


@dataclass(frozen=True)
class ImageBatch:
    """The images of a batch: image_index int64 [S], one entry a slot; pixel_values None without any; others as in PairBatch."""

    pixel_values: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    image_grids: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    image_lengths: torch.Tensor | None = None
    image_keys: torch.Tensor | None = None

    @property
    def new(self) -> int:
        """N, the images whose pixels are here."""
        stored = 0 if self.image_lengths is None else len(self.image_lengths)
        if self.image_grids is not None:
            return len(self.image_grids) - stored
        return 0 if self.pixel_values is None else len(self.pixel_values)

    def pixels_of(self, images: Sequence[int]) -> torch.Tensor:
        """float32 [ΣP, …] of some of the N images, in this order."""
        if self.image_grids is None:
            return self.pixel_values[list(images)]
        parts = self.pixel_values.split(self.image_grids[: self.new, 0].tolist())
        return torch.cat([parts[image] for image in images])

    def stored_features(self) -> tuple[torch.Tensor, ...]:
        """bfloat16 [K, W] of each of the C others."""
        return () if self.image_lengths is None else self.image_features.split(self.image_lengths.tolist())

    def only(self, images: Sequence[int]) -> ImageBatch:
        """These images alone, by their index, with one slot each."""
        new = [image for image in images if image < self.new]
        stored = [image for image in images if image >= self.new]
        places = {image: place for place, image in enumerate([*new, *stored])}
        features = self.stored_features() if stored else ()
        return ImageBatch(
            self.pixels_of(new) if new else None,
            torch.tensor([places[image] for image in images], dtype=torch.int64),
            None if self.image_grids is None else self.image_grids[[*new, *stored]],
            *_packed([features[image - self.new] for image in stored]),
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
    """`placeholder` says what stands for an image in a prompt, by its grid (of images that are all alike: `()`)."""

    pad_id: int
    image_token_id: int
    placeholder: Callable[[tuple[int, ...]], Sequence[int]]

    def placeholders(self, item: PairItem | DialogueItem) -> Iterator[Sequence[int]]:
        """What stands for each image of an item, in order."""
        return map(self.placeholder, repeat(()) if item.grids is None else item.grids)


class PairCollator(_Collator):
    """PairItems → PairBatch."""

    def __call__(self, items: Sequence[PairItem]) -> PairBatch:
        rows = [
            expand_image_tokens(ids, self.image_token_id, self.placeholders(item))
            for item in items
            for ids in item.input_ids
        ]
        input_ids, mask = right_pad(rows, self.pad_id)
        images = image_batch([(item.images, item.stored, item.grids) for item in items], uses=2)
        choice = torch.tensor([int(item.preference == 2) for item in items])
        return PairBatch(input_ids, mask, choice, **vars(images))


class DialogueCollator(_Collator):
    """DialogueItems → DialogueBatch."""

    def __call__(self, items: Sequence[DialogueItem]) -> DialogueBatch:
        rows, labels = self.labelled(items)
        input_ids, mask = right_pad(rows, self.pad_id)
        images = image_batch([(item.images, item.stored, item.grids) for item in items])
        return DialogueBatch(input_ids, mask, right_pad(labels, NO_LOSS)[0], **vars(images))

    def labelled(self, items: Sequence[DialogueItem]) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of each row, image tokens expanded, and its labels: the token itself where it carries loss, else -100."""
        rows, labels = [], []
        for item in items:
            row: list[int] = []
            target: list[int] = []
            placeholders = self.placeholders(item)
            for index, loss in zip(item.input_ids, item.supervised, strict=True):
                ids = list(next(placeholders)) if index == self.image_token_id else [index]
                row += ids
                target += ids if loss else [NO_LOSS] * len(ids)
            rows.append(row)
            labels.append(target)
        return rows, labels


def collate_prompts(items: Sequence[PromptItem]) -> PromptBatch:
    """PromptItems → PromptBatch, in order."""
    reward = [(item.reward_images, item.reward_stored, item.reward_grids) for item in items]
    shared = all(images is None for images, *_ in reward)
    return PromptBatch(
        # A worker process copies what it hands over: features once.
        items=[replace(item, stored=None, reward_stored=None) for item in items],
        images=image_batch([(item.images, item.stored, item.grids) for item in items]),
        reward_images=None if shared else image_batch(reward),
    )


def image_batch(
    rows: Iterable[tuple[torch.Tensor, StoredImages | None, Grids | None]], uses: int = 1
) -> ImageBatch:
    """Images of rows, their pixels, what is stored and how they are cut up, in one batch.

    A row's slots are listed `uses` times.
    """
    rows = list(rows)
    found = [
        (None,) * len(images if grids is None else grids) if stored is None else stored.features
        for images, stored, grids in rows
    ]
    new, behind = 0, sum(features is None for row in found for features in row)
    index, keys, features = [], [], []
    cut: tuple[list, list] = [], []  # of new images, and of those that are stored
    for (_, stored, grids), known in zip(rows, found, strict=True):
        slots = []
        for place, known_features in enumerate(known):
            is_new = known_features is None
            slots.append(new if is_new else behind + len(features))
            new += is_new
            features += [] if is_new else [known_features]
            if grids is not None:
                cut[not is_new].append(grids[place])
        index += slots * uses
        if stored is not None:
            asked = [key for key, have in zip(stored.keys, known, strict=True) if have is None]
            keys += [list(bytes.fromhex(key)) for key in asked]
    return ImageBatch(
        torch.cat([images for images, *_ in rows if len(images)]) if behind else None,
        torch.tensor(index, dtype=torch.int64),
        torch.tensor([*cut[0], *cut[1]], dtype=torch.int64) if cut[0] or cut[1] else None,
        *_packed(features),
        torch.tensor(keys, dtype=torch.uint8) if keys else None,
    )


def _packed(features: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Features [K, W] as one table, and their lengths."""
    if not features:
        return None, None
    return torch.cat(list(features)), torch.tensor([len(one) for one in features])


def _matrix(rows: list[list], dtype: torch.dtype, length: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).reshape(len(rows), length)


@dataclass(frozen=True)
class WholeStepsCollator:
    """Numbered items → the batch of `collate` as a dictionary, with `rows` int64[B].

    At rows that only fill a step, `labels` int64[B, L] (of answer pairs [B, 2, L]) or `choice` int64[B] are −100.
    """

    collate: Callable[[Sequence[Any]], Mapping[str, torch.Tensor]]

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, torch.Tensor]:
        batch = dict(self.collate([item for _, item in items]))
        rows = torch.tensor([number for number, _ in items])
        for name in {"labels", "choice"} & batch.keys():
            batch[name][rows == FILL] = NO_LOSS
        return {**batch, ROWS: rows}
