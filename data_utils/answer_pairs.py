"""Preference pairs as dialogues whose last answer carries loss, for what trains a policy on them without a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets as hf
from datasets import Value

from data_utils.batches import NO_LOSS, DialogueBatch, DialogueCollator, image_batch, right_pad
from data_utils.datasets import ExampleDataset
from data_utils.items import DialogueItem


@dataclass(frozen=True)
class AnswerPairItem:
    """The dialogue with the preferred answer and the one with the other; both hold the same images."""

    chosen: DialogueItem
    rejected: DialogueItem


class AnswerPairDataset(ExampleDataset[AnswerPairItem]):
    """Pairs of answers to one dialogue."""

    features = hf.Features(
        {
            "row": Value("int64"),
            "ids_1": [Value("int32")],
            "supervised_1": [Value("bool")],
            "ids_2": [Value("int32")],
            "supervised_2": [Value("bool")],
            "images": [Value("string")],
            "preference": Value("int32"),
        }
    )

    def _item(self, row: dict[str, Any]) -> AnswerPairItem:
        images, stored = self._images(row)
        chosen = row["preference"]
        return AnswerPairItem(
            *(
                DialogueItem(
                    row[f"ids_{output}"], row[f"supervised_{output}"], images.pixels, stored, images.grids
                )
                for output in (chosen, 3 - chosen)
            )
        )


@dataclass
class AnswerPairBatch(DialogueBatch):
    """B pairs as 2B right-padded rows: row 2i has the preferred answer of pair i, row 2i + 1 the other.

    As `DialogueBatch`, but labels int64 [B, 2, L], and both rows of a pair name the same images.
    """


class AnswerPairCollator(DialogueCollator):
    """AnswerPairItems → AnswerPairBatch."""

    def __call__(self, items: Sequence[AnswerPairItem]) -> AnswerPairBatch:
        rows, labels = self.labelled([one for item in items for one in (item.chosen, item.rejected)])
        input_ids, mask = right_pad(rows, self.pad_id)
        first = [item.chosen for item in items]
        images = image_batch([(one.images, one.stored, one.grids) for one in first], uses=2)
        targets = right_pad(labels, NO_LOSS)[0].unflatten(0, (len(items), 2))
        return AnswerPairBatch(input_ids, mask, targets, **vars(images))
