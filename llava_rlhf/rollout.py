"""One batch of experience: prompts, sampled responses, and what policy, reference, value and reward say of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_utils.batches import PromptBatch, right_pad
from data_utils.datasets import PromptItem
from data_utils.tokens import expand_image_tokens
from llava_rlhf.actor_critic import (
    ImageFeatures,
    ScoringSettings,
    Sequences,
    expanded_queries,
    join_responses,
    response_log_probs,
)
from llava_rlhf.assemble import Cast
from llava_rlhf.numerics import Numerics
from models.generation import SamplingSettings
from models.vlm import VisionLanguageModel


@dataclass
class Experience:
    """Rollouts of one process. `R` rows; `T` columns, the longest response.

    Attributes:
        items: the prompts, each with everything that belongs to it.
        responses: int64[R, T], right-padded; the stop token is included.
        response_mask: bool[R, T], True at real tokens.
        counted: bool[R, T], True where a column enters means and losses (`Numerics`): by default at real tokens.
        stopped: bool[R], whether the response ends with the stop token.
        texts: decoded responses without control tokens.
        log_probs, ref_log_probs: float32[R, T] in nats, of the sampling policy and the reference; 0 where not counted.
        entropies, ref_entropies: float32[R, T] in nats.
        values: float32[R, T]; 0 where not counted.
        scores: float32[R], reward model only.
        policy_images, judge_images: image features for each base.
    """

    items: list[PromptItem]
    responses: Tensor
    response_mask: Tensor
    counted: Tensor
    stopped: Tensor
    texts: list[str]
    log_probs: Tensor
    ref_log_probs: Tensor
    entropies: Tensor
    ref_entropies: Tensor
    values: Tensor
    scores: Tensor
    policy_images: ImageFeatures
    judge_images: ImageFeatures

    @property
    def lengths(self) -> Tensor:
        """int64[R] response tokens, the stop token included."""
        return self.response_mask.sum(dim=1)

    def rows(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Responses, mask and counted columns of these rows, trimmed to those that count: int64, bool, bool[r, t]."""
        index = torch.tensor(rows, device=self.responses.device)
        counted = self.counted[index]
        width = int(counted.sum(dim=1).max())
        return self.responses[index, :width], self.response_mask[index, :width], counted[:, :width]


class RolloutCollector:
    """Samples and scores prompts with the four roles.

    Args:
        cast: the roles.
        tokenizer: of both bases.
        sampling: how to answer.
        scoring: how log-probabilities are taken.
        judge_batch_size: rows the reward model scores at once.
        numerics: which columns count.
    """

    def __init__(
        self,
        cast: Cast,
        tokenizer: PreTrainedTokenizerBase,
        sampling: SamplingSettings,
        scoring: ScoringSettings,
        judge_batch_size: int,
        numerics: Numerics = Numerics.CORRECTED,
    ):
        self.cast = cast
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.scoring = scoring
        self.judge_batch_size = judge_batch_size
        self.numerics = numerics

    @property
    def pad_id(self) -> int:
        """Fills padded columns; they are masked by position."""
        return self.sampling.pad_id

    @torch.no_grad()
    def collect(self, batches: Iterable[PromptBatch], uniforms: Tensor) -> Experience:
        """Roll out the sampling passes of one PPO step.

        Args:
            batches: the prompts of this process, pass by pass.
            uniforms: float[R, max_new_tokens], one row a prompt, in order.
        """
        parts, start = [], 0
        for batch in batches:
            parts.append(self._roll_out(batch, uniforms[start : start + len(batch.items)]))
            start += len(batch.items)
        return _join(parts, self.pad_id)

    def policy_sequences(
        self, items: Sequence[PromptItem], responses: Tensor, mask: Tensor, features: Tensor | None
    ) -> Sequences:
        """Prompts and responses as the policy's base sees them."""
        return self._sequences(self.cast.policy.bank.vlm, items, responses, mask, features)

    def value_sequences(
        self, items: Sequence[PromptItem], responses: Tensor, mask: Tensor, features: Tensor | None
    ) -> Sequences:
        """Prompts and responses as the judge's base sees them; the value model reads no reward prompt."""
        return self._sequences(self.cast.value.bank.vlm, items, responses, mask, features)

    def _sequences(
        self,
        vlm: VisionLanguageModel,
        items: Sequence[PromptItem],
        responses: Tensor,
        mask: Tensor,
        features: Tensor | None,
    ) -> Sequences:
        queries = expanded_queries([item.query_ids for item in items], vlm, self.pad_id)
        return join_responses(queries, responses, mask, features)

    def _roll_out(self, batch: PromptBatch, uniforms: Tensor) -> Experience:
        cast, items = self.cast, batch.items
        # 1. Images once for each base.
        slots = [len(item.image_names) for item in items]
        policy_images = ImageFeatures.encode(cast.policy.bank.vlm, batch.images, slots)
        judge_images = policy_images
        if not cast.shared:
            judge_images = ImageFeatures.encode(
                cast.reward.bank.vlm, batch.reward_images or batch.images, slots
            )
        every_row = range(len(items))
        policy_features, judge_features = policy_images.select(every_row), judge_images.select(every_row)

        # 2. Answers.
        queries = expanded_queries([item.query_ids for item in items], cast.policy.bank.vlm, self.pad_id)
        responses, mask = cast.policy.sample(*queries, policy_features, self.sampling, uniforms)
        stopped = ((responses == self.tokenizer.eos_token_id) & mask).any(dim=1)
        responses, mask, counted = self.numerics.columns(
            responses, mask, self.sampling.max_new_tokens, self.pad_id
        )

        # 3. What policy and reference think of them.
        sequences = join_responses(queries, responses, mask, policy_features)
        log_probs, entropies = response_log_probs(cast.policy, sequences, counted, self.scoring)
        ref_log_probs, ref_entropies = response_log_probs(cast.reference, sequences, counted, self.scoring)

        # 4. What value and reward model think of them.
        values = cast.value(*self.value_sequences(items, responses, mask, judge_features), mask.shape[1])
        scores = self._scores(items, responses, mask, judge_images)
        texts = [
            self.tokenizer.decode(row[real], skip_special_tokens=True).strip()
            for row, real in zip(responses, mask, strict=True)
        ]
        return Experience(
            items,
            responses,
            mask,
            counted,
            stopped,
            texts,
            log_probs,
            ref_log_probs,
            entropies,
            ref_entropies,
            values * counted,
            scores,
            policy_images,
            judge_images,
        )

    def _scores(
        self, items: Sequence[PromptItem], responses: Tensor, mask: Tensor, images: ImageFeatures
    ) -> Tensor:
        """float32[R] of [query, response, reward prompt], scored in batches of `judge_batch_size` rows."""
        vlm = self.cast.reward.bank.vlm
        rows = [
            expand_image_tokens(item.query_ids, vlm.image_token_id, vlm.tokens_per_image)
            + response[real].tolist()
            + list(item.reward_prompt_ids)
            for item, response, real in zip(items, responses, mask, strict=True)
        ]
        scores = []
        for start in range(0, len(rows), self.judge_batch_size):
            chosen = range(start, min(start + self.judge_batch_size, len(rows)))
            ids, real = right_pad([rows[row] for row in chosen], self.pad_id)
            scores.append(self.cast.reward(ids.to(vlm.device), real.to(vlm.device), images.select(chosen)))
        return torch.cat(scores)


def _join(parts: Sequence[Experience], pad_id: int) -> Experience:
    """Several passes as one batch, padded to a common width."""
    width = max(part.responses.shape[1] for part in parts)

    def cat(name: str) -> Tensor:
        fill = pad_id if name == "responses" else 0
        tensors = [getattr(part, name) for part in parts]
        if tensors[0].ndim == 1:
            return torch.cat(tensors)
        return torch.cat(
            [torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors]
        )

    tensors = "responses response_mask counted stopped log_probs ref_log_probs entropies ref_entropies values scores".split()
    return Experience(
        items=[item for part in parts for item in part.items],
        texts=[text for part in parts for text in part.texts],
        policy_images=ImageFeatures.join([part.policy_images for part in parts]),
        judge_images=ImageFeatures.join([part.judge_images for part in parts]),
        **{name: cat(name) for name in tensors},
    )
