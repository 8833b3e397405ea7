"""Padding, image slots, labels; batches stay what they are on their way to a device."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from data_utils.batches import (
    DialogueBatch,
    DialogueCollator,
    PairBatch,
    PairCollator,
    collate_prompts,
    left_pad,
    right_pad,
)
from data_utils.conversation import TEMPLATES, dialogue_segments
from data_utils.items import DialogueItem, PairItem, PromptItem
from data_utils.schema import AnswerType, read_dialogues

IMAGE = 9


def alike(positions: int, image: int = IMAGE):
    """Every image takes so many positions."""
    return lambda grid: [image] * positions


def pixels(*values: float) -> torch.Tensor:
    """One 2 × 2 image a value, filled with it."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_padding_by_hand():
    # The pad id 0 is also a real token: the mask must not care.
    ids, mask = left_pad([[0, 5], [7]], 0)
    assert ids.tolist() == [[0, 5], [0, 7]]
    assert mask.tolist() == [[True, True], [False, True]]
    ids, mask = right_pad([[5, 0], [7]], 0)
    assert ids.tolist() == [[5, 0], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_padding_to_whole_blocks():
    for rows, length in (([[5, 0], [7]], 4), ([[1, 2, 3, 4]], 4), ([[1, 2, 3, 4, 5]], 8), ([[]], 0)):
        ids, mask = right_pad(rows, 9, multiple=4)
        assert ids.tolist() == [row + [9] * (length - len(row)) for row in rows]
        assert mask.sum(dim=1).tolist() == list(map(len, rows)) and mask.shape == ids.shape


def test_padding_of_nothing():
    for pad in (left_pad, right_pad):
        assert [tensor.shape for tensor in pad([[], []], 0)] == [(2, 0), (2, 0)]
        assert [tensor.dtype for tensor in pad([], 0)] == [torch.int64, torch.bool]


def test_pairs_by_hand():
    items = [
        PairItem(([1, IMAGE, 2], [1, IMAGE]), pixels(10.0), 2),
        PairItem(([3], [4, 5]), pixels(), 1),
        PairItem(([IMAGE, IMAGE], [IMAGE, 6, IMAGE]), pixels(20.0, 30.0), 2),
    ]
    batch = PairCollator(pad_id=0, image_token_id=IMAGE, placeholder=alike(2))(items)
    assert batch.input_ids.tolist() == [
        [1, 9, 9, 2, 0],
        [1, 9, 9, 0, 0],
        [3, 0, 0, 0, 0],
        [4, 5, 0, 0, 0],
        [9, 9, 9, 9, 0],
        [9, 9, 6, 9, 9],
    ]
    assert batch.attention_mask.sum(1).tolist() == [4, 3, 1, 2, 4, 5]
    assert not batch.attention_mask[0, 4] and batch.attention_mask[0, :4].all()
    assert batch.choice.tolist() == [1, 0, 1]
    # slots: row 0 → image 0, row 1 → image 0, rows 2 and 3 none, row 4 → 1, 2, row 5 → 1, 2
    assert batch.image_index.tolist() == [0, 0, 1, 2, 1, 2]
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [10.0, 20.0, 30.0]
    assert len(batch.image_index) * 2 == (batch.input_ids == IMAGE).sum()


def test_dialogues_by_hand():
    items = [
        DialogueItem([1, IMAGE, 3, 4, 2], [False, False, False, True, True], pixels(1.0)),
        DialogueItem([1, 0, 2], [False, True, True], pixels()),
    ]
    batch = DialogueCollator(pad_id=0, image_token_id=IMAGE, placeholder=alike(3))(items)
    assert batch.input_ids.tolist() == [[1, 9, 9, 9, 3, 4, 2], [1, 0, 2, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100] * 5 + [4, 2], [-100, 0, 2] + [-100] * 4]
    assert batch.attention_mask.tolist() == [[True] * 7, [True] * 3 + [False] * 4]
    assert batch.image_index.tolist() == [0]


def test_a_batch_without_images_has_no_pixels():
    batch = DialogueCollator(0, IMAGE, alike(3))([DialogueItem([1, 2], [False, True], pixels())])
    assert batch.pixel_values is None and "pixel_values" not in batch
    assert batch.image_index.tolist() == [] and batch.image_index.dtype == torch.int64


def prompt(row: int, images: torch.Tensor, reward_images: torch.Tensor | None) -> PromptItem:
    return PromptItem(row, str(row), [1], [2], (), images, reward_images, AnswerType.GENERAL, 1.0, (), "what")


def test_prompts_keep_their_order_and_both_kinds_of_pixels():
    items = [
        prompt(7, pixels(1.0), pixels(4.0)),
        prompt(3, pixels(), pixels()),
        prompt(5, pixels(2.0, 3.0), pixels(5, 6)),
    ]
    batch = collate_prompts(items)
    assert [item.row for item in batch.items] == [7, 3, 5]
    assert batch.images.image_index.tolist() == [0, 1, 2]
    assert batch.images.pixel_values[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert batch.reward_images.pixel_values[:, 0, 0, 0].tolist() == [4.0, 5.0, 6.0]
    shared = collate_prompts([prompt(0, pixels(), None)])
    assert shared.reward_images is None and shared.images.pixel_values is None


def batches() -> list:
    pair = PairItem(([1, IMAGE, 2], [1, IMAGE]), pixels(10.0), 2)
    talk = DialogueItem([1, IMAGE, 2], [False, False, True], pixels(10.0))
    silent = DialogueItem([1, 2], [False, True], pixels())
    dialogue = DialogueCollator(0, IMAGE, alike(2))
    return [PairCollator(0, IMAGE, alike(2))([pair]), dialogue([talk]), dialogue([silent])]


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("batch", batches(), ids=["pairs", "dialogues", "text only"])
def test_accelerate_and_trainer_keep_the_batch_type(batch, tmp_path):
    moved = send_to_device(batch, torch.device("cpu"))
    assert type(moved) is type(batch) and same(moved, batch)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    prepared = Trainer(model=nn.Linear(1, 1), args=arguments)._prepare_inputs(batch)
    assert type(prepared) is type(batch) and same(prepared, batch)
    assert torch.equal(prepared.input_ids, batch.input_ids)
    assert (prepared.pixel_values is None) == (batch.pixel_values is None)


@pytest.mark.parametrize("kind", [PairBatch, DialogueBatch])
def test_pinning_keeps_the_batch_type(kind, monkeypatch):
    # Page-locked memory needs a GPU; what is tested is the walk over the fields.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    batch = kind(torch.tensor([[1]]), image_index=torch.tensor([0]))
    pinned = batch.pin_memory()
    assert type(pinned) is kind and pinned.pixel_values is None
    assert pinned.input_ids.tolist() == [[2]] and pinned.image_index.tolist() == [1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_a_loader_pins_batches():
    items = [PairItem(([1, IMAGE], [2]), pixels(1.0), 1)] * 2
    loader = DataLoader(items, batch_size=2, pin_memory=True, collate_fn=PairCollator(0, IMAGE, alike(1)))
    batch = next(iter(loader))
    assert type(batch) is PairBatch and batch.input_ids.is_pinned()


def test_a_worker_hands_batches_over():
    items = [PairItem(([1, IMAGE], [2]), pixels(1.0), 1)] * 4
    loader = DataLoader(items, batch_size=2, num_workers=1, collate_fn=PairCollator(0, IMAGE, alike(1)))
    kinds = [type(batch) for batch in loader]
    assert kinds == [PairBatch, PairBatch]


def test_golden_collated_dialogues(golden, llama_encoder):
    records, _ = read_dialogues(golden / "data" / "sft.json")
    items = []
    for record in records:
        tokens = llama_encoder.encode(dialogue_segments(TEMPLATES["v1"], record.turns, len(record.images)))
        items.append(DialogueItem(list(tokens.ids), list(tokens.supervised), pixels(0.0)))
    batch = DialogueCollator(pad_id=0, image_token_id=-200, placeholder=alike(1, -200))(items)
    recorded = np.load(golden / "data" / "golden_sft_collated.npz")
    assert (batch.input_ids.numpy() == recorded["input_ids"]).all()
    assert (batch.labels.numpy() == recorded["labels"]).all()
    assert (batch.attention_mask.numpy() == recorded["attention_mask"]).all()


def test_golden_collated_pairs(golden):
    # The original pads in front: a row's real tokens and the choices must agree.
    recorded = np.load(golden / "data" / "golden_rm_collated.npz")
    rows = json.loads((golden / "data" / "golden_rm_fact.json").read_text())
    orders = json.loads((golden / "data" / "golden_rm_collated_caption_orders.json").read_text())
    same_order = [
        row for row, data in enumerate(rows) if data["caption_orders"] == orders[2 * row : 2 * row + 2]
    ]
    assert same_order, "no row was recorded twice with the same caption order"
    items = [PairItem(tuple(rows[i]["input_ids"]), pixels(0.0), rows[i]["choice"][0] + 1) for i in same_order]
    batch = PairCollator(pad_id=0, image_token_id=-200, placeholder=alike(1, -200))(items)
    assert batch.choice.tolist() == recorded["choice"][same_order, 0].tolist()
    mask = recorded["attention_mask"][same_order].astype(bool).reshape(2 * len(same_order), -1)
    ids = recorded["input_ids"][same_order].reshape(2 * len(same_order), -1)
    for made, real, old, kept in zip(batch.input_ids, batch.attention_mask, ids, mask, strict=True):
        assert made[real].tolist() == old[kept].tolist()


def test_pixels_are_not_rounded():
    third = pixels(1 / 3)  # no bfloat16 number
    pairs = PairCollator(0, IMAGE, alike(2))([PairItem(([1, IMAGE], [1, IMAGE]), third, 1)])
    dialogues = DialogueCollator(0, IMAGE, alike(2))(
        [DialogueItem([1, IMAGE, 2], [False, False, True], third)]
    )
    prompts = collate_prompts([prompt(0, third, third)])
    for found in (pairs, dialogues, prompts.images, prompts.reward_images):
        assert found.pixel_values.dtype == torch.float32 and torch.equal(found.pixel_values, third)
