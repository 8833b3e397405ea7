"""Preference pairs as dialogues: which tokens are compared, and what both rows of a pair share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_utils.answer_pairs import AnswerPairCollator
from data_utils.batches import NO_LOSS, WholeStepsCollator
from data_utils.building import build_answer_pairs, build_dialogues
from data_utils.problems import DataError
from tests.data_utils.rows import gpt, human, preference

IMAGE = 4
SEVERAL = {"conversations": [human("what ?"), gpt("yes"), human("this ?"), gpt("")]}


def pairs(write, common, rows, **changes):
    return build_answer_pairs(write("pairs.json", rows), replace(common, **changes))


def test_only_the_compared_answer_carries_loss(write, common, word_encoder):
    """An earlier answer of the dialogue, which supervised fine-tuning would learn, does not."""
    item = pairs(write, common, [preference(**SEVERAL)])[0]
    for one, answer in ((item.chosen, "a cat"), (item.rejected, "a dog")):
        compared = [token for token, loss in zip(one.input_ids, one.supervised, strict=True) if loss]
        assert compared == [*word_encoder.encode_response(answer), 2]  # 2 is the stop
    row = {"image": "a.png", "conversations": [*SEVERAL["conversations"][:3], gpt("a cat")]}
    dialogue = build_dialogues(write("dialogues.json", [row]), common)[0]
    assert dialogue.input_ids == item.chosen.input_ids
    assert sum(dialogue.supervised) > sum(item.chosen.supervised)


@pytest.mark.parametrize("preferred", [1, 2])
def test_the_preferred_answer_comes_first(write, common, preferred):
    dataset = pairs(write, common, [preference(preference=preferred)])
    row = dataset._rows[0]
    assert dataset[0].chosen.input_ids == row[f"ids_{preferred}"]
    assert dataset[0].rejected.input_ids == row[f"ids_{3 - preferred}"]


def test_a_batch_by_hand(write, common):
    """A pair with two images and one of text alone: rows, labels, and one image tensor for both rows of a pair."""
    two = preference(
        image=["a.png", "b.png"], question="<image> <image> what ?", outputs=("a cat", "yes"), preference=2
    )
    text = preference(outputs=("no", "a cat and a dog"))
    del text["image"]
    dataset = pairs(write, common, [two, text])
    batch = AnswerPairCollator(0, IMAGE, lambda grid: [IMAGE] * 3)([dataset[0], dataset[1]])
    assert batch.pixel_values.shape[0] == 2 and batch.image_index.tolist() == [0, 1, 0, 1]
    assert batch.input_ids.shape[0] == 4 and batch.labels.shape == (2, 2, batch.input_ids.shape[1])
    for number, (pair, length) in enumerate([((0, 0), 1), ((0, 1), 2), ((1, 0), 1), ((1, 1), 5)]):
        labels, ids = batch.labels[pair], batch.input_ids[number]
        real = int(batch.attention_mask[number].sum())
        assert (labels != NO_LOSS).nonzero().flatten().tolist() == list(range(real - length - 1, real))
        assert torch.equal(labels[labels != NO_LOSS], ids[real - length - 1 : real])
        assert int((ids == IMAGE).sum()) == (6 if number < 2 else 0)


def test_a_row_that_fills_a_step_has_no_label(write, common):
    dataset = pairs(write, common, [preference(), preference(preference=2)])
    collate = WholeStepsCollator(AnswerPairCollator(0, IMAGE, lambda grid: [IMAGE]))
    batch = collate([(0, dataset[0]), (-1, dataset[1])])
    assert (batch["labels"][0] != NO_LOSS).any() and (batch["labels"][1] == NO_LOSS).all()


def test_a_pair_of_one_answer_is_refused_or_dropped(write, common):
    rows = [preference(), preference(outputs=("a cat", "a  cat"))]  # the same ids
    with pytest.raises(DataError, match=r"row 1, field 'output_2\.value'.*none is preferred"):
        pairs(write, common, rows)
    dataset = pairs(write, common, rows, skip_invalid=True)
    assert len(dataset) == 1 and dataset.report.dropped == {"both outputs are the same": 1}


def test_lengths_are_those_of_dialogues(write, common):
    """Query up to the last "ASSISTANT:", answers with their stop."""
    lengths = pairs(write, common, [preference(**SEVERAL)]).report.token_lengths
    dataset = pairs(write, common, [preference(**SEVERAL)])
    row = dataset._rows[0]
    assert lengths["total"] == [len(row["ids_1"]), len(row["ids_2"])] and lengths["response"] == [3, 3]
    assert lengths["query"] == [len(row["ids_1"]) - 3]
    with pytest.raises(DataError, match="query longer than query_len 5"):
        pairs(write, common, [preference(**SEVERAL)], query_len=5)
