"""Examples that are ready for a batch: token ids from an Arrow table, pixels opened when an item is asked for.

The table is a Hugging Face `datasets.Dataset`, which the workers of a DataLoader share instead of copying.
Rows are built in `building.py`; an image counts as one token here (collators expand it).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import datasets as hf
import torch
from datasets import Value

from data_utils.batches import FILL
from data_utils.fact_lists import FactList
from data_utils.feature_files import FeatureFiles, StoredImages, read_images
from data_utils.images import ImagePipeline, Pictures
from data_utils.items import DialogueItem, PairItem, PromptItem
from data_utils.schema import AnswerType
from data_utils.summary import DataReport

ItemT = TypeVar("ItemT")
FACT = {
    "source": Value("string"),
    "kind": Value("string"),
    "text": Value("string"),
    "confidence": Value("float64"),
}


class ExampleDataset(torch.utils.data.Dataset, Generic[ItemT], ABC):
    """A table of tokenised rows, the folder and pipeline of its images, and the report of its making."""

    features: hf.Features

    def __init__(
        self,
        rows: list[dict[str, Any]],
        image_folder: str | Path | None,
        pipeline: ImagePipeline,
        report: DataReport,
    ):
        self._rows = hf.Dataset.from_list(rows, features=self.features)
        self._image_folder = image_folder or ""
        self._pipeline = pipeline
        self._files: FeatureFiles | None = None
        self.report = report

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ItemT:
        return self._item(self._rows[int(index)])

    def column(self, name: str) -> list[Any]:
        """One column of the table, in the order of the rows; no image is opened."""
        return list(self._rows[name])

    def with_features(self, files: FeatureFiles | None) -> ExampleDataset[ItemT]:
        """The same, without decoding images whose features are stored."""
        other = copy.copy(self)
        other._files = files
        return other

    def select(self, indices: Iterable[int]) -> ExampleDataset[ItemT]:
        """Some of the rows, in this order."""
        return self._with(self._rows.select(indices))

    def split(self, eval_size: int, seed: int) -> tuple[ExampleDataset[ItemT], ExampleDataset[ItemT] | None]:
        """A random (train, eval) split with `eval_size` rows in eval; 0 gives no eval set.

        Raises ValueError when nothing would be left to train on.
        """
        if not 0 <= eval_size < len(self):
            raise ValueError(f"eval_size {eval_size} must be at least 0 and below the {len(self)} rows kept")
        if eval_size == 0:
            return self, None
        parts = self._rows.train_test_split(test_size=eval_size, seed=seed)
        return self._with(parts["train"]), self._with(parts["test"])

    def _with(self, rows: hf.Dataset) -> ExampleDataset[ItemT]:
        other = copy.copy(self)
        other._rows = rows
        return other

    def _images(self, row: dict[str, Any]) -> tuple[Pictures, StoredImages | None]:
        return self._read(self._pipeline, self._files, row)

    def _read(
        self, pipeline: ImagePipeline, files: FeatureFiles | None, row: dict[str, Any]
    ) -> tuple[Pictures, StoredImages | None]:
        try:
            return read_images(pipeline, files, self._image_folder, row["images"])
        except ValueError as error:  # the checks before the run read most images' headers only
            place = f"{self.report.file}, row {row['row']}, field 'image'"
            raise ValueError(f"{place}: {error}; --verify_images True finds all such files first") from error

    @abstractmethod
    def _item(self, row: dict[str, Any]) -> ItemT:
        """One row of the table with its pixels."""


class PreferenceDataset(ExampleDataset[PairItem]):
    """Preference pairs for the reward model."""

    features = hf.Features(
        {
            "row": Value("int64"),
            "ids_1": [Value("int32")],
            "ids_2": [Value("int32")],
            "images": [Value("string")],
            "preference": Value("int32"),
        }
    )

    def _item(self, row: dict[str, Any]) -> PairItem:
        images, stored = self._images(row)
        ids = (row["ids_1"], row["ids_2"])
        return PairItem(ids, images.pixels, row["preference"], stored, images.grids)


class DialogueDataset(ExampleDataset[DialogueItem]):
    """Dialogues for supervised fine-tuning."""

    features = hf.Features(
        {
            "row": Value("int64"),
            "ids": [Value("int32")],
            "supervised": [Value("bool")],
            "images": [Value("string")],
        }
    )

    def _item(self, row: dict[str, Any]) -> DialogueItem:
        images, stored = self._images(row)
        return DialogueItem(row["ids"], row["supervised"], images.pixels, stored, images.grids)


class PromptDataset(ExampleDataset[PromptItem]):
    """Prompts for PPO; `reward_pipeline` makes the reward model's pixels when it has a vision tower of its own."""

    features = hf.Features(
        {
            "row": Value("int64"),
            "id": Value("string"),
            "query_ids": [Value("int32")],
            "reward_prompt_ids": [Value("int32")],
            "images": [Value("string")],
            "answer_type": Value("int32"),
            "length_bonus": Value("float64"),
            "captions": [Value("string")],
            "facts": [FACT],
            "facts_complete": Value("bool"),
            "question": Value("string"),
        }
    )

    def __init__(
        self,
        rows: list[dict[str, Any]],
        image_folder: str | Path | None,
        pipeline: ImagePipeline,
        report: DataReport,
        reward_pipeline: ImagePipeline | None,
    ):
        super().__init__(rows, image_folder, pipeline, report)
        self._reward_pipeline = reward_pipeline
        self._reward_files: FeatureFiles | None = None

    def with_features(
        self, files: FeatureFiles | None, reward_files: FeatureFiles | None = None
    ) -> PromptDataset:
        """As in the base class; `reward_files` are of the reward model's tower where it has its own."""
        other = super().with_features(files)
        other._reward_files = reward_files
        return other

    def _item(self, row: dict[str, Any]) -> PromptItem:
        names = tuple(row["images"])
        images, stored = self._images(row)
        reward_images, reward_stored = Pictures(None), None
        if self._reward_pipeline is not None:
            reward_images, reward_stored = self._read(self._reward_pipeline, self._reward_files, row)
        return PromptItem(
            row=row["row"],
            id=row["id"],
            query_ids=row["query_ids"],
            reward_prompt_ids=row["reward_prompt_ids"],
            image_names=names,
            images=images.pixels,
            reward_images=reward_images.pixels,
            answer_type=AnswerType(row["answer_type"]),
            length_bonus=row["length_bonus"],
            captions=tuple(row["captions"]),
            facts=FactList.of_rows(row["facts"], row["facts_complete"]),
            question=row["question"],
            stored=stored,
            reward_stored=reward_stored,
            grids=images.grids,
            reward_grids=reward_images.grids,
        )


class WholeSteps(torch.utils.data.Dataset):
    """A data set filled up to a multiple of `step` rows: items are (row number in the data file or `FILL`, item).

    Where the rows are no multiple of a step, accelerate gives the processes some rows twice, so that the last step of an
    epoch would depend on the number of processes. Here such rows carry no loss, which nothing but the real ones is divided by.
    """

    def __init__(self, dataset: ExampleDataset, step: int = 1):
        self.dataset = dataset
        self.numbers = dataset.column("row")
        self.length = -(-len(dataset) // step) * step

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, Any]:
        real = index < len(self.dataset)
        # What fills a step is a row like any other, so that shapes and images are nothing new.
        return self.numbers[index] if real else FILL, self.dataset[index % len(self.dataset)]
