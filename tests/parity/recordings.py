"""Recorded batches of the original as batches of this project."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

ORIGINAL_IMAGE_ID = -200
IMAGE_ID = 32000  # of the converted base
POSITIONS = 16  # of one image


def expand_images(ids: np.ndarray, *alongside: np.ndarray) -> list[Tensor]:
    """Each -200 becomes 16 image tokens; arrays alongside repeat their entry there, labels -100.

    Rows without an image are filled with padding on the right. All arrays are [rows, L].
    """
    arrays = (ids, *alongside)
    widened: list[list[list[int]]] = [[] for _ in arrays]
    for row in range(len(ids)):
        for out, array in zip(widened, arrays, strict=True):
            entries: list[int] = []
            for token, entry in zip(ids[row].tolist(), array[row].tolist(), strict=True):
                if token == ORIGINAL_IMAGE_ID:
                    entries += [IMAGE_ID if array is ids else entry] * POSITIONS
                else:
                    entries.append(entry)
            out.append(entries)
    width = max(len(row) for row in widened[0])
    return [torch.tensor([row + [0] * (width - len(row)) for row in out]) for out in widened]


def pair_batch(recorded: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, Tensor]:
    """A recorded reward batch [pairs, 2, L] as a `PairBatch`: rows 2i and 2i + 1 are pair i and share its image."""
    ids, mask = (recorded[prefix + name] for name in ("input_ids", "attention_mask"))
    pairs, two, width = ids.shape
    ids, mask = expand_images(ids.reshape(pairs * two, width), mask.reshape(pairs * two, width))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.tensor(recorded[prefix + "images"]),
        "image_index": torch.arange(pairs).repeat_interleave(two),
        "choice": torch.tensor(recorded.get(prefix + "choice", np.zeros((pairs, 1)))).flatten(),
    }


def dialogue_batch(recorded: Mapping[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """A recorded SFT batch [rows, L] as a `DialogueBatch`."""
    ids, labels, mask = (recorded[prefix + name] for name in ("input_ids", "labels", "attention_mask"))
    ids, labels, mask = expand_images(ids, labels, mask)
    labels = torch.where(mask.bool(), labels, -100)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.tensor(recorded[prefix + "images"]),
        "image_index": torch.arange(len(ids)),
    }
