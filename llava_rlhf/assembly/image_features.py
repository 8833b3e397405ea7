"""Features of images: each distinct image of a PPO step goes through a vision tower once, whoever looks at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_utils.batches import ImageBatch
from data_utils.feature_files import DTYPE, FeatureFiles
from data_utils.items import PromptItem
from models.vlm import VisionLanguageModel


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the distinct images of a batch, encoded once.

    Attributes:
        features: for each image float[K, D]; several batches may share the tensors.
        slots: for each row the indices of its images.
    """

    features: list[Tensor]
    slots: list[list[int]]

    def select(self, rows: Sequence[int]) -> Tensor | None:
        """float[S, K, D] for the image slots of these rows in order; None when they have no images."""
        index = [slot for row in rows for slot in self.slots[row]]
        return torch.stack([self.features[slot] for slot in index]) if index else None

    def reordered(self, rows: Sequence[int]) -> ImageFeatures:
        """The same with row i taken from row `rows[i]`."""
        return ImageFeatures(self.features, [self.slots[row] for row in rows])

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Features of several batches as one."""
        slots, features = [], []
        for part in parts:
            slots.extend([[slot + len(features) for slot in row] for row in part.slots])
            features.extend(part.features)
        return ImageFeatures(features, slots)


class SeenImages:
    """The images of one PPO step, by tower and name: a name stands for one picture, which is encoded once.

    Args:
        caches: tower → the files that keep its features from step to step, where there are any.
    """

    def __init__(self, caches: Mapping[str, FeatureFiles] | None = None):
        self._caches = caches or {}
        self._features: dict[tuple[str, str], Tensor] = {}

    def encode(
        self, tower: str, vlm: VisionLanguageModel, images: ImageBatch, items: Sequence[PromptItem]
    ) -> ImageFeatures:
        """Run the vision tower over the images of a batch that it has not seen yet.

        Args:
            tower: name of the tower, to keep several apart.
            vlm: the base with that tower.
            images: pixels; `image_index` lists the slots of all rows in order.
            items: the rows, whose `image_names` name their slots in order.
        """
        names = [(tower, name) for item in items for name in item.image_names]
        new = {
            name: int(slot)
            for name, slot in zip(names, images.image_index, strict=True)
            if name not in self._features
        }
        if new:
            features = encode_images(vlm, images.only(list(new.values())), self._caches.get(tower))
            self._features |= zip(new, features, strict=True)
        slots, start = [], 0
        for item in items:
            slots.append(list(range(start, start + len(item.image_names))))
            start += len(item.image_names)
        return ImageFeatures([self._features[name] for name in names], slots)


def encode_images(
    vlm: VisionLanguageModel, images: ImageBatch, files: FeatureFiles | None = None
) -> Tensor | None:
    """Features float[S, K, D] of the image slots of a batch, in order; None when it has none.

    With `files` they are bfloat16, and what had to be encoded is stored: from the first time on an image has the numbers
    that every later look at it will read.
    """
    if files is None:
        return vlm.encode_images(images.pixel_values, images.image_index)
    parts = []
    if images.pixel_values is not None:
        parts.append(_encode_and_store(vlm, images.pixel_values, images.image_keys, files))
    if images.image_features is not None:
        parts.append(images.image_features.to(vlm.device, DTYPE))
    return torch.cat(parts)[images.image_index.to(vlm.device)] if parts else None


def _encode_and_store(vlm: VisionLanguageModel, pixels: Tensor, keys: Tensor, files: FeatureFiles) -> Tensor:
    names = [bytes(key).hex() for key in keys.tolist()]
    # Pixels wait in the data loader's queue: their features may have been stored since.
    found = {name: files.load(name) for name in names}
    new = {name: place for place, name in enumerate(names) if found[name] is None}
    if new:
        encoded = vlm.encode_images(pixels[list(new.values())], torch.arange(len(new)))
        found |= {name: files.store(name, one) for name, one in zip(new, encoded.cpu(), strict=True)}
    return torch.stack([found[name] for name in names]).to(vlm.device)
