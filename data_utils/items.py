"""One example of each kind, ready for a batch; what moves on from here knows nothing of the table it came from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data_utils.fact_lists import NO_FACTS, FactList
from data_utils.feature_files import StoredImages
from data_utils.schema import AnswerType

Grids = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PairItem:
    """A preference pair: ids of query + response + reward prompt for each output, shared images, 1 or 2 preferred.

    `images` are the pixels of n images, float32 [n, 3, H, W] where all are alike, n = 0 for text alone; else `grids` says
    how each is cut up (see `data_utils.images.Pictures`). With a feature cache `stored` knows the n images, and `images` are
    those whose features it lacks.
    """

    input_ids: tuple[list[int], list[int]]
    images: torch.Tensor
    preference: int
    stored: StoredImages | None = None
    grids: Grids | None = None


@dataclass(frozen=True)
class DialogueItem:
    """A dialogue: ids, True where a token carries loss; images, `stored` and `grids` as in PairItem."""

    input_ids: list[int]
    supervised: list[bool]
    images: torch.Tensor
    stored: StoredImages | None = None
    grids: Grids | None = None


@dataclass(frozen=True)
class PromptItem:
    """A PPO prompt with everything that belongs to it, so that no list has to stay aligned with another.

    `images` float32 [n, 3, h, w] are the policy's, `reward_images` float32 [n, 3, H, W] the reward model's (None when
    both look through one tower); `captions` are the facts in the order the reward model reads them (the row's own captions
    where nothing is scored); `facts` are all that is known of the row, whatever the reward model reads; `question` is the text as the query reads it, without image markers. `stored`, `grids` and
    `reward_stored`, `reward_grids` belong to `images` and `reward_images` as in PairItem.
    """

    row: int
    id: str
    query_ids: list[int]
    reward_prompt_ids: list[int]
    image_names: tuple[str, ...]
    images: torch.Tensor | None
    reward_images: torch.Tensor | None
    answer_type: AnswerType
    length_bonus: float
    captions: tuple[str, ...]
    question: str
    stored: StoredImages | None = None
    reward_stored: StoredImages | None = None
    grids: Grids | None = None
    reward_grids: Grids | None = None
    facts: FactList = NO_FACTS
