"""One batch of experience: prompts, sampled responses, and what policy, reference, value and reward say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.ppo.actor_critic import Responses
from llava_rlhf.ppo.fact_scores import FactScores
from llava_rlhf.ppo.reward_scores import SentenceScores


@dataclass
class Experience:
    """Rollouts of one process. `R` rows; `T` columns, the longest response.

    Attributes:
        items: the prompts, each with everything that belongs to it but its pixels.
        responses: int64[R, T], right-padded; the stop token is included.
        response_mask: bool[R, T], True at real tokens.
        counted: bool[R, T], True where a column enters means and losses (`Numerics`): by default at real tokens.
        finite: bool[R], False where a logit was not finite while the response was sampled.
        stopped: bool[R], whether the response ends with the stop token.
        texts: decoded responses without control tokens.
        log_probs, ref_log_probs: float32[R, T] in nats, of the sampling policy and the reference; 0 where not counted.
        entropies, ref_entropies: float32[R, T] in nats, or None where they were not asked for.
        values: float32[R, T]; 0 where not counted. None without a critic.
        scores: float32[R], of the reward model or the ensemble alone.
        policy_images, reward_images: image features for each base.
        sequence_lengths: positions that prompt and counted response take, for policy or critic, whichever are more.
        sentences: scores after each sentence, where they were asked for.
        facts: what the answers earned by what they say; None without a fact reward.
        member_scores: float32[R, K] of each of several reward models; None where there is one.
        engine_log_probs: float32[R, T] in nats, those that the engine that sampled had of its own, 0 where not real; None where
            it has none.
    """

    items: list[PromptItem]
    responses: Tensor
    response_mask: Tensor
    counted: Tensor
    finite: Tensor
    stopped: Tensor
    texts: list[str]
    log_probs: Tensor
    ref_log_probs: Tensor
    entropies: Tensor | None
    ref_entropies: Tensor | None
    values: Tensor | None
    scores: Tensor
    policy_images: ImageFeatures
    reward_images: ImageFeatures
    sequence_lengths: list[int]
    sentences: SentenceScores | None = None
    member_scores: Tensor | None = None
    engine_log_probs: Tensor | None = None
    facts: FactScores | None = None

    @property
    def lengths(self) -> Tensor:
        """int64[R] response tokens, the stop token included."""
        return self.response_mask.sum(dim=1)

    def rows(self, rows: Sequence[int]) -> Responses:
        """The responses of these rows, trimmed to the columns that count."""
        return trimmed(Responses(self.responses, self.response_mask, self.counted), rows)


def trimmed(responses: Responses, rows: Sequence[int]) -> Responses:
    """Some of the rows, with no more columns than those that count."""
    index = torch.tensor(rows, device=responses.ids.device)
    width = int(responses.counted[index].sum(dim=1).max())
    return Responses(*(tensor[index, :width] for tensor in responses))
