"""One batch of experience: prompts, sampled responses, and what policy, reference, value and reward say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from data_utils.batches import PromptBatch, right_pad
from data_utils.feature_files import FeatureFiles
from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import ImageFeatures, SeenImages, expand_query
from llava_rlhf.assembly.roles import PPORoles
from llava_rlhf.ppo.actor_critic import (
    Responses,
    ScoringSettings,
    Sequences,
    join_responses,
    response_log_probs,
)
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.ppo.rollout_engine import RolloutEngine
from models.packed_features import PackedFeatures
from models.vlm import VisionLanguageModel


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
        values: float32[R, T]; 0 where not counted.
        scores: float32[R], reward model only.
        policy_images, reward_images: image features for each base.
        sequence_lengths: positions that query and counted response take, in the base where they are more.
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
    values: Tensor
    scores: Tensor
    policy_images: ImageFeatures
    reward_images: ImageFeatures
    sequence_lengths: list[int]

    @property
    def lengths(self) -> Tensor:
        """int64[R] response tokens, the stop token included."""
        return self.response_mask.sum(dim=1)

    def rows(self, rows: Sequence[int]) -> Responses:
        """The responses of these rows, trimmed to the columns that count."""
        return _trimmed(Responses(self.responses, self.response_mask, self.counted), rows)


@dataclass(frozen=True)
class _Answers:
    """What was asked and answered, before anything is said of it; fields as in `Experience`."""

    items: list[PromptItem]
    responses: Tensor
    mask: Tensor
    finite: Tensor
    policy_images: ImageFeatures
    reward_images: ImageFeatures


class RolloutCollector:
    """Samples prompts with the policy, then lets the four roles look at all answers of a step, similar lengths together.

    Args:
        roles: of PPO.
        tokenizer: of both bases.
        engine: answers the prompts.
        scoring: how log-probabilities are taken.
        batches, reward_batches: rows that policy, reference and value, or the reward model, look at together.
        numerics: which columns count.
        caches: where features of images are kept from step to step, by tower as in `SeenImages`; None: nowhere.
    """

    def __init__(
        self,
        roles: PPORoles,
        tokenizer: PreTrainedTokenizerBase,
        engine: RolloutEngine,
        scoring: ScoringSettings,
        batches: MicroBatches,
        reward_batches: MicroBatches,
        numerics: Numerics = Numerics.CORRECTED,
        caches: Mapping[str, FeatureFiles] | None = None,
    ):
        self.roles = roles
        self.tokenizer = tokenizer
        self.engine = engine
        self.scoring = scoring
        self.batches = batches
        self.reward_batches = reward_batches
        self.numerics = numerics
        self.caches = caches

    @property
    def pad_id(self) -> int:
        """Fills padded columns; they are masked by position."""
        return self.engine.settings.pad_id

    @torch.no_grad()
    def collect(
        self, batches: Iterable[PromptBatch], uniforms: Tensor, order: Sequence[int] | None = None
    ) -> Experience:
        """Roll out the sampling passes of one PPO step.

        Args:
            batches: the prompts of this process, pass by pass.
            uniforms: float[R, max_new_tokens], one row a prompt.
            order: for each prompt, as the passes bring them, its row in `uniforms` and in the result; None: as they come.
        """
        order = range(len(uniforms)) if order is None else order
        # 1. Images, and answers to them.
        seen, parts, start = SeenImages(self.caches), [], 0
        for batch in batches:
            rows = list(order[start : start + len(batch.items)])
            parts.append(self._answer(batch, uniforms[rows], seen))
            start += len(rows)
        answers = _join(parts, order, self.pad_id)
        responses = Responses(
            *self.numerics.columns(
                answers.responses, answers.mask, self.engine.settings.max_new_tokens, self.pad_id
            )
        )
        counts = responses.counted.sum(dim=1).tolist()
        bases = ((self._policy_vlm, answers.policy_images), (self._reward_vlm, answers.reward_images))
        lengths = [
            max(len(expand_query(item.query_ids, images.grids_of(row), vlm)) for vlm, images in bases) + count
            for row, (item, count) in enumerate(zip(answers.items, counts, strict=True))
        ]
        # 2. What the four roles say of them.
        looks = self._look(answers, responses, lengths)
        scores = self._scores(answers.items, responses, answers.reward_images)
        texts = [
            self.tokenizer.decode(row[real], skip_special_tokens=True).strip()
            for row, real in zip(responses.ids, responses.mask, strict=True)
        ]
        stop_ids = responses.ids.new_tensor(self._policy_vlm.family.stop_ids(self.tokenizer))
        return Experience(
            items=answers.items,
            responses=responses.ids,
            response_mask=responses.mask,
            counted=responses.counted,
            finite=answers.finite,
            stopped=(torch.isin(responses.ids, stop_ids) & responses.mask).any(dim=1),
            texts=texts,
            scores=scores,
            policy_images=answers.policy_images,
            reward_images=answers.reward_images,
            sequence_lengths=lengths,
            **looks,
        )

    def policy_sequences(
        self, items: Sequence[PromptItem], responses: Responses, features: PackedFeatures | None
    ) -> Sequences:
        """Prompts and responses as the policy's base sees them."""
        return self._sequences(self._policy_vlm, items, responses, features)

    def value_sequences(
        self, items: Sequence[PromptItem], responses: Responses, features: PackedFeatures | None
    ) -> Sequences:
        """Prompts and responses as the reward model's base sees them; the value model reads no reward prompt."""
        return self._sequences(self._reward_vlm, items, responses, features)

    @property
    def _policy_vlm(self) -> VisionLanguageModel:
        return self.roles.policy.bank.vlm

    @property
    def _reward_vlm(self) -> VisionLanguageModel:
        return self.roles.reward.bank.vlm

    def _sequences(
        self,
        vlm: VisionLanguageModel,
        items: Sequence[PromptItem],
        responses: Responses,
        features: PackedFeatures | None,
    ) -> Sequences:
        queries = [item.query_ids for item in items]
        padding_read = self.numerics.counts_padding
        return join_responses(queries, responses, features, vlm, self.pad_id, padding_read)

    def _answer(self, batch: PromptBatch, uniforms: Tensor, seen: SeenImages) -> _Answers:
        items = batch.items
        policy_images = seen.encode("policy", self._policy_vlm, batch.images, items)
        reward_images, pixels = policy_images, batch.reward_images or batch.images
        if not self.roles.shared:
            reward_images = seen.encode("reward", self._reward_vlm, pixels, items)
        responses, mask, finite = self.engine.sample(batch, uniforms, policy_images.select(range(len(items))))
        finite = mask.any(dim=1) if finite is None else finite  # every response has a token
        # What is kept for the update are features, not pixels.
        items = [replace(item, images=None, reward_images=None) for item in items]
        return _Answers(items, responses, mask, finite, policy_images, reward_images)

    def _look(
        self, answers: _Answers, responses: Responses, lengths: Sequence[int]
    ) -> dict[str, Tensor | None]:
        """What policy, reference and value say of every response: float32[R, T], 0 where not counted."""
        names = ["log_probs", "ref_log_probs", "values"]
        names += ["entropies", "ref_entropies"] if self.scoring.entropy else []
        device = responses.ids.device
        found = {name: torch.zeros(responses.ids.shape, device=device) for name in names}

        def look(rows: list[int]) -> None:
            index = torch.tensor(rows, device=device)
            part = _trimmed(responses, rows)
            width = part.ids.shape[1]
            items = [answers.items[row] for row in rows]
            sequences = self.policy_sequences(items, part, answers.policy_images.select(rows))
            for role, prefix in ((self.roles.policy, ""), (self.roles.reference, "ref_")):
                log_probs, entropies = response_log_probs(role, sequences, part.counted, self.scoring)
                found[f"{prefix}log_probs"][index, :width] = log_probs
                if entropies is not None:
                    found[f"{prefix}entropies"][index, :width] = entropies
            sequences = self.value_sequences(items, part, answers.reward_images.select(rows))
            found["values"][index, :width] = self.roles.value(*sequences) * part.counted

        self.batches.run(lengths, look)
        return {"entropies": None, "ref_entropies": None, **found}

    def _scores(self, items: Sequence[PromptItem], responses: Responses, images: ImageFeatures) -> Tensor:
        """float32[R] of [query, response, reward prompt]."""
        vlm = self._reward_vlm
        answers, lengths = responses.ids.tolist(), responses.mask.sum(dim=1).tolist()
        sequences = [
            expand_query(item.query_ids, images.grids_of(row), vlm)
            + answers[row][:length]
            + list(item.reward_prompt_ids)
            for row, (item, length) in enumerate(zip(items, lengths, strict=True))
        ]
        scores = torch.zeros(len(items), device=vlm.device)

        def score(rows: list[int]) -> None:
            ids, real = right_pad([sequences[row] for row in rows], self.pad_id)
            found = self.roles.reward(
                ids.to(vlm.device), real.to(vlm.device), images.select(rows), right_padded=True
            )
            scores[torch.tensor(rows, device=vlm.device)] = found

        self.reward_batches.run([len(sequence) for sequence in sequences], score)
        return scores


def _trimmed(responses: Responses, rows: Sequence[int]) -> Responses:
    """Some of the rows, with no more columns than those that count."""
    index = torch.tensor(rows, device=responses.ids.device)
    width = int(responses.counted[index].sum(dim=1).max())
    return Responses(*(tensor[index, :width] for tensor in responses))


def _join(parts: Sequence[_Answers], order: Sequence[int], pad_id: int) -> _Answers:
    """Several passes as one batch of a common width, each row where `order` says."""
    width = max(part.responses.shape[1] for part in parts)
    places = sorted(range(len(order)), key=lambda index: order[index])
    index = torch.tensor(places, device=parts[0].responses.device)

    def cat(tensors: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat([pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors])[index]

    items = [item for part in parts for item in part.items]
    return _Answers(
        [items[place] for place in places],
        cat([part.responses for part in parts], pad_id),
        cat([part.mask for part in parts], False),
        torch.cat([part.finite for part in parts])[index],
        ImageFeatures.join([part.policy_images for part in parts]).reordered(places),
        ImageFeatures.join([part.reward_images for part in parts]).reordered(places),
    )
