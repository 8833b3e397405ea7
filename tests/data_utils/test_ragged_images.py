"""Images that are not all alike: rows of pixels, positions and features differ from one to the next."""

from __future__ import annotations

from dataclasses import replace

import torch

from data_utils.batches import DialogueCollator, PairCollator, collate_prompts
from data_utils.feature_files import StoredImages
from data_utils.items import DialogueItem, PairItem, PromptItem
from data_utils.schema import AnswerType

IMAGE, BEGIN, END = 9, 7, 8


def placeholder(grid: tuple[int, ...]) -> list[int]:
    """Between two marks as many positions as a picture has rows of pixels."""
    return [BEGIN, *[IMAGE] * grid[0], END]


def rows_of(*lengths: int) -> torch.Tensor:
    """Pixels of pictures of so many rows, filled with that number."""
    return torch.cat([torch.zeros(0, 4), *(torch.full((length, 4), float(length)) for length in lengths)])


def grids_of(*lengths: int) -> tuple[tuple[int, ...], ...]:
    return tuple((length, 10 * length) for length in lengths)


def test_pairs_and_dialogues_by_hand():
    pair = PairItem(([1, IMAGE, 2, IMAGE], [IMAGE, IMAGE]), rows_of(1, 3), 2, grids=grids_of(1, 3))
    text = PairItem(([5], [6, 6]), rows_of(), 1, grids=())
    batch = PairCollator(0, IMAGE, placeholder)([pair, text])
    assert batch.input_ids[0].tolist() == [1, 7, 9, 8, 2, 7, 9, 9, 9, 8]
    assert batch.input_ids[1][:8].tolist() == [7, 9, 8, 7, 9, 9, 9, 8]
    assert batch.image_index.tolist() == [0, 1, 0, 1]
    assert batch.image_grids.tolist() == [[1, 10], [3, 30]] and len(batch.pixel_values) == 4
    talk = DialogueItem([1, IMAGE, 2], [False, False, True], rows_of(2), grids=grids_of(2))
    batch = DialogueCollator(0, IMAGE, placeholder)([talk])
    assert batch.input_ids.tolist() == [[1, 7, 9, 9, 8, 2]]
    assert batch.labels.tolist() == [[-100] * 5 + [2]]


def test_some_images_of_a_batch_with_their_rows_and_those_that_are_stored():
    """Row 0 has a stored picture of 5 positions and a new one of 3 rows; row 1 new ones of 1 and 2 rows."""
    stored = StoredImages(("aa" * 32, "bb" * 32), (torch.full((5, 6), 0.5).bfloat16(), None))
    first = item(rows_of(3), grids_of(20, 3), stored)
    second = item(rows_of(1, 2), grids_of(1, 2), StoredImages(("cc" * 32, "dd" * 32), (None, None)))
    images = collate_prompts([first, second]).images
    assert images.image_index.tolist() == [3, 0, 1, 2] and images.new == 3
    assert images.image_grids[:, 0].tolist() == [3, 1, 2, 20]
    assert images.image_lengths.tolist() == [5] and images.image_features.shape == (5, 6)
    assert images.pixels_of([2, 0])[:, 0].tolist() == [2.0, 2.0, 3.0, 3.0, 3.0]
    some = images.only([3, 2])
    assert some.image_index.tolist() == [1, 0] and some.image_grids[:, 0].tolist() == [2, 20]
    assert some.pixel_values[:, 0].tolist() == [2.0, 2.0] and some.image_lengths.tolist() == [5]
    assert [bytes(key).hex() for key in some.image_keys.tolist()] == ["dd" * 32]
    assert collate_prompts([replace(second, images=rows_of(), grids=(), stored=None)]).images.new == 0


def item(pixels: torch.Tensor, grids: tuple, stored: StoredImages) -> PromptItem:
    return PromptItem(
        0, "", [], [], (), pixels, None, AnswerType.GENERAL, 1.0, (), "", stored=stored, grids=grids
    )
