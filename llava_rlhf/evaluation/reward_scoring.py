"""Scores of pairs and answers, taken as training and PPO take them; what a row scores hardly depends on its batch.

Two things would make it: attention adds up as many terms as the batch is long, in another order for another length, and a head is a
product with one column, which libraries compute by other kernels for one row than for several. So batches are padded to
whole blocks, and heads compute in float64. In float32, on one thread of a CPU, that leaves no bit different at the tiny world's
sizes; what is left elsewhere is in docs/serve_reward.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data_utils.answers import AnswerDataset, AnswerItem
from data_utils.batches import image_batch, right_pad
from data_utils.datasets import PreferenceDataset
from data_utils.items import PairItem
from llava_rlhf.assembly.image_features import encode_images, expand_query
from models.roles import RewardModel

# Lengths of batches are multiples: where a sum over keys is taken in vectors of up to 16 numbers, what is padded behind adds
# zeros to it and changes no order.
BLOCK = 16


def score_items(
    reward_models: Sequence[RewardModel], items: Sequence[PairItem | AnswerItem], pad_id: int
) -> Tensor:
    """float32[B, k, K] on the CPU: the scores of the k sequences of each item (2 of a pair, 1 of an answer) by K reward models.

    These stand on one base. Each item's images are encoded once, and read by all its sequences and all of them.
    """
    vlm = reward_models[0].bank.vlm
    rows = [
        expand_query(ids, repeat(()) if item.grids is None else item.grids, vlm)
        for item in items
        for ids in item.input_ids
    ]
    input_ids, mask = right_pad(rows, pad_id, multiple=BLOCK)
    images = image_batch([(item.images, None, item.grids) for item in items], uses=len(items[0].input_ids))
    with torch.no_grad():
        features = encode_images(vlm, images)
        asked = (input_ids.to(vlm.device), mask.to(vlm.device), features)
        scores = torch.stack(
            [model(*asked, right_padded=True, head_dtype=torch.float64) for model in reward_models], dim=-1
        )
    return scores.view(len(items), -1, len(reward_models)).cpu()


def score_dataset(
    reward_models: Sequence[RewardModel],
    dataset: PreferenceDataset | AnswerDataset,
    pad_id: int,
    batch_size: int,
) -> Tensor:
    """float32[N, k, K] scores of a data set, in its order.

    Args:
        reward_models: K on one base, in inference.
        dataset: pairs (k = 2) or answers (k = 1).
        pad_id: fills short rows; masked by position.
        batch_size: pairs or answers at once. They are taken by length, longest first, so that rows are padded little
            and a lack of memory shows at once.

    Raises:
        FloatingPointError: a score is not finite.
    """
    lengths = np.reshape(dataset.report.token_lengths["total"], (len(dataset), -1)).max(axis=1)
    order = np.argsort(-lengths, kind="stable").tolist()
    scores: dict[int, Tensor] = {}
    with tqdm(total=len(order), desc="scoring", unit="row", disable=None) as progress:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            scores |= zip(
                chosen, score_items(reward_models, [dataset[i] for i in chosen], pad_id), strict=True
            )
            progress.update(len(chosen))
    table = torch.stack([scores[index] for index in range(len(dataset))])
    bad = (~table.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        rows = [dataset.column("row")[index] for index in bad[:5]]
        raise FloatingPointError(f"{len(bad)} rows have scores that are not finite, first rows {rows}")
    return table
