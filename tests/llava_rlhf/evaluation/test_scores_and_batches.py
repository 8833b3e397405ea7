"""What a row scores, bit for bit, does not depend on the rows beside it: float32, one thread, sizes of the tiny world.

With longer rows, larger bases, several threads or a GPU kernels differ with the batch; what holds then is in
docs/serve_reward.md.
"""

from __future__ import annotations

import pytest
import torch

from data_utils.answers import AnswerItem
from llava_rlhf.assembly.reward_models import trained_reward_models
from llava_rlhf.evaluation.reward_scoring import score_items
from models.heads import MLPHead
from models.vlm import BaseSettings
from tests.support.tiny_models import IMAGE, PAD

LENGTHS = (*range(21, 60, 3), 97, 130, 176)  # from 192 positions on attention takes other blocks
BATCHES = (2, 5, 16, len(LENGTHS))


def items() -> list[AnswerItem]:
    """Rows of these lengths and of random words, every third with a picture."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for place, length in enumerate(LENGTHS):
        ids = torch.randint(PAD + 1, 60, (length,), generator=draw).tolist()
        pictures = int(place % 3 == 0)
        ids[2:3] = [IMAGE] * pictures or ids[2:3]
        pixels = torch.randn(pictures, 3, 28, 28, generator=draw)
        made.append(AnswerItem((ids,), pixels, None))
    return made


def scores(model, rows: list[AnswerItem], size: int, order: list[int]) -> list[float]:
    """Of the rows in their order, taken in another in batches of a size."""
    found = {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        found |= zip(
            part, score_items([model], [rows[place] for place in part], PAD).flatten().tolist(), strict=True
        )
    return [found[place] for place in range(len(rows))]


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_row_scores_the_same_alone_and_in_any_batch(head, reward_run, tiny_base):
    (model,) = trained_reward_models(tiny_base, BaseSettings(), [reward_run])
    if head == "mlp":
        torch.manual_seed(1)
        model.head = MLPHead(model.bank.vlm.hidden_size).requires_grad_(False)
    rows = items()
    places = list(range(len(rows)))
    mixed = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    alone = scores(model, rows, 1, places)
    assert len(set(alone)) == len(rows)
    for count in BATCHES:
        for order in (places, mixed):
            assert scores(model, rows, count, order) == alone, (count, order)
