"""What reward models say of answers: as a whole, and on request after each of their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_utils.batches import right_pad
from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import ImageFeatures, expand_query
from llava_rlhf.assembly.sentences import sentence_ends
from llava_rlhf.assembly.token_text import TokenText, at_tokens
from llava_rlhf.functional.rewards import ensemble_scores
from llava_rlhf.ppo.micro_batches import MicroBatches
from models.roles import RewardModel


@dataclass(frozen=True)
class SentenceScores:
    """Scores of R answers as far as each of their sentences, the last of which is the whole answer.

    Attributes:
        texts: of the answers.
        ends: for each answer the characters after which it was scored; sentences that end in one token are one. An answer
            without text is one sentence.
        scores: for each answer the scores of the reward model, or of all together, there.
    """

    texts: list[TokenText]
    ends: list[list[int]]
    scores: list[list[float]]

    def rewards(self, row: int) -> list[float]:
        """What each sentence of an answer changed in its score; they add up to the score of the whole answer.

        A difference of scores is a potential, which moves credit and leaves the best policy what it was where --gamma is 1
        (Ng, Harada and Russell 1999); a reward for each sentence as in arXiv 2306.01693, of one and the same reward model.
        """
        scores = self.scores[row]
        return [after - before for before, after in zip([0.0, *scores], scores, strict=False)]

    def before_the_last(self, columns: int) -> Tensor:
        """float32[R, T] rewards of all sentences but the last, each on the token with which it ends; T is `columns`."""
        spans = [
            list(zip(ends, self.rewards(row), strict=True))[:-1]  # the last one ends with the stop token
            for row, ends in enumerate(self.ends)
        ]
        return at_tokens(self.texts, spans, columns)


def scored_ends(text: TokenText) -> list[int]:
    """Characters after which an answer is scored, the whole answer last."""
    by_token = {text.token_of(end): end for end in sentence_ends(text.text)}
    return list(by_token.values()) or [0]


@dataclass(frozen=True)
class AnswerScorer:
    """Asks the reward model, or several over one base.

    Attributes:
        rewards: K of them.
        batches: which rows they look at together.
        pad_id: fills padded columns, which are masked.
        beta: what disagreement between them costs (`ensemble_scores`).
    """

    rewards: Sequence[RewardModel]
    batches: MicroBatches
    pad_id: int
    beta: float = 0.0

    def together(self, members: Tensor) -> Tensor:
        """float32[R] of float32[R, K]: what the reward models say together."""
        return members[:, 0] if len(self.rewards) == 1 else ensemble_scores(members, self.beta)[0]

    def scores(
        self, items: Sequence[PromptItem], answers: Sequence[Sequence[int]], images: ImageFeatures
    ) -> Tensor:
        """float32[R, K] of [query, answer, reward prompt], a column for each reward model; answers are ids without padding."""
        vlm = self.rewards[0].bank.vlm
        sequences = [
            expand_query(item.query_ids, images.grids_of(row), vlm)
            + list(answers[row])
            + list(item.reward_prompt_ids)
            for row, item in enumerate(items)
        ]
        scores = torch.zeros(len(items), len(self.rewards), device=vlm.device)

        def score(rows: list[int]) -> None:
            ids, real = right_pad([sequences[row] for row in rows], self.pad_id)
            asked = (ids.to(vlm.device), real.to(vlm.device), images.select(rows))
            found = [reward(*asked, right_padded=True) for reward in self.rewards]
            scores[torch.tensor(rows, device=vlm.device)] = torch.stack(found, dim=1)

        self.batches.run([len(sequence) for sequence in sequences], score)
        return scores

    def sentence_scores(
        self,
        items: Sequence[PromptItem],
        answers: Sequence[Sequence[int]],
        images: ImageFeatures,
        texts: Sequence[TokenText],
    ) -> tuple[Tensor, SentenceScores]:
        """float32[R, K] as `scores` gives it, and scores after each sentence: [query, answer so far, reward prompt].

        Answers of one sentence cost no more than in `scores`.
        """
        ends = [scored_ends(text) for text in texts]
        early = [(row, end) for row, of_row in enumerate(ends) for end in of_row[:-1]]
        rows = [*range(len(items)), *(row for row, _ in early)]
        beginnings = [answers[row][: texts[row].token_of(end) + 1] for row, end in early]
        found = self.scores([items[row] for row in rows], [*answers, *beginnings], images.reordered(rows))
        whole, rest = found[: len(items)], iter(self.together(found[len(items) :]).tolist())
        scores = [
            [*(next(rest) for _ in of_row[:-1]), last]
            for of_row, last in zip(ends, self.together(whole).tolist(), strict=True)
        ]
        return whole, SentenceScores(list(texts), ends, scores)
