"""Features of images: each distinct image of a PPO step goes through a vision tower once, whoever looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from data_utils.batches import ImageBatch, left_pad
from data_utils.feature_files import DTYPE, FeatureFiles
from data_utils.items import PromptItem
from data_utils.tokens import expand_image_tokens
from models.families.base import Grid
from models.packed_features import PackedFeatures, grids_of, pack
from models.vlm import VisionLanguageModel


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the distinct images of a batch, encoded once.

    Attributes:
        features: for each image float[K, W]; several batches may share the tensors.
        grids: for each image, how its family cuts it up.
        slots: for each row the indices of its images.
    """

    features: list[Tensor]
    grids: list[Grid]
    slots: list[list[int]]

    def select(self, rows: Sequence[int]) -> PackedFeatures | None:
        """What the image slots of these rows hold, in order; None when they have no images."""
        index = [slot for row in rows for slot in self.slots[row]]
        return pack(*zip(*((self.features[i], self.grids[i]) for i in index), strict=True)) if index else None

    def grids_of(self, row: int) -> list[Grid]:
        """Of the images of a row, in order."""
        return [self.grids[slot] for slot in self.slots[row]]

    def reordered(self, rows: Sequence[int]) -> ImageFeatures:
        """The same with row i taken from row `rows[i]`."""
        return ImageFeatures(self.features, self.grids, [self.slots[row] for row in rows])

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Features of several batches as one."""
        slots, features, grids = [], [], []
        for part in parts:
            slots.extend([[slot + len(features) for slot in row] for row in part.slots])
            features.extend(part.features)
            grids.extend(part.grids)
        return ImageFeatures(features, grids, slots)


class SeenImages:
    """The images of one PPO step, by tower and name: a name stands for one picture, which is encoded once.

    Args:
        caches: tower → the files that keep its features from step to step, where there are any.
    """

    def __init__(self, caches: Mapping[str, FeatureFiles] | None = None):
        self._caches = caches or {}
        self._seen: dict[tuple[str, str], tuple[Tensor, Grid]] = {}

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
            if name not in self._seen
        }
        # ZeRO-3: another process may have new ones, and all run its tower together.
        if new or vlm.tower_is_divided:
            found = encode_images(vlm, images.only(list(new.values())), self._caches.get(tower))
        if new:
            self._seen |= zip(new, zip(found.split(), found.grids, strict=True), strict=True)
        slots, start = [], 0
        for item in items:
            slots.append(list(range(start, start + len(item.image_names))))
            start += len(item.image_names)
        features, grids = zip(*(self._seen[name] for name in names), strict=True) if names else ((), ())
        return ImageFeatures(list(features), list(grids), slots)


def encode_images(
    vlm: VisionLanguageModel, images: ImageBatch, files: FeatureFiles | None = None
) -> PackedFeatures | None:
    """Features of the image slots of a batch, in order; None when it has none.

    With `files` they are bfloat16, and what had to be encoded is stored: from the first time on an image has the numbers
    that every later look at it will read.
    """
    if files is None:
        return vlm.encode_images(images.pixel_values, images.image_index, images.image_grids)
    if images.image_index is None or not images.image_index.numel():
        return None
    stored = [features.to(vlm.device, DTYPE) for features in images.stored_features()]
    known = [*_encode_and_store(vlm, images, files), *stored]
    grids = grids_of(images.image_grids, len(known))
    slots = images.image_index.tolist()
    return pack([known[i] for i in slots], [grids[i] for i in slots])


def expand_query(ids: Sequence[int], grids: Iterable[Grid], vlm: VisionLanguageModel) -> list[int]:
    """A query with each image at its full width, by its grid."""
    return expand_image_tokens(ids, vlm.image_token_id, map(vlm.family.placeholder, grids))


def expand_queries(
    queries: Sequence[Sequence[int]], image_features: PackedFeatures | None, vlm: VisionLanguageModel
) -> list[list[int]]:
    """Queries with each image at its full width; `image_features` of the images of all rows, one behind the other."""
    grids = iter(image_features.grids if image_features else ())
    return [expand_query(ids, grids, vlm) for ids in queries]


def padded_queries(
    queries: Sequence[Sequence[int]],
    image_features: PackedFeatures | None,
    vlm: VisionLanguageModel,
    pad_id: int,
) -> tuple[Tensor, Tensor]:
    """As `expand_queries`, left-padded: int64[B, P] and mask bool[B, P] on the model's device."""
    ids, mask = left_pad(expand_queries(queries, image_features, vlm), pad_id)
    return ids.to(vlm.device), mask.to(vlm.device)


def _encode_and_store(vlm: VisionLanguageModel, images: ImageBatch, files: FeatureFiles) -> list[Tensor]:
    """The features of the images whose pixels a batch brings."""
    if images.pixel_values is None:
        return []
    names = [bytes(key).hex() for key in images.image_keys.tolist()]
    # Pixels wait in the data loader's queue: their features may have been stored since.
    found = {name: files.load(name) for name in names}
    new = {name: place for place, name in enumerate(names) if found[name] is None}
    if new:
        grids = grids_of(images.image_grids, len(names))
        encoded = vlm.encode_pictures(
            images.pixels_of(list(new.values())), [grids[place] for place in new.values()]
        )
        for (name, place), one in zip(new.items(), encoded, strict=True):
            found[name] = files.store(name, one.cpu(), grids[place])
    return [found[name].to(vlm.device) for name in names]
