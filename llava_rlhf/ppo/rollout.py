"""Rolling out: responses to the prompts of a step, and what policy, reference, value and reward say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from data_utils.batches import PromptBatch
from data_utils.feature_files import FeatureFiles
from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import ImageFeatures, SeenImages, expand_query
from llava_rlhf.assembly.roles import PPORoles
from llava_rlhf.assembly.token_text import token_text
from llava_rlhf.engines.interface import RolloutEngine
from llava_rlhf.ppo.actor_critic import (
    Responses,
    ScoringSettings,
    Sequences,
    join_responses,
    response_log_probs,
)
from llava_rlhf.ppo.claim_scores import ClaimScorer
from llava_rlhf.ppo.experience import Experience, trimmed
from llava_rlhf.ppo.fact_scores import FactScorer, FactScores
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.ppo.reward_scores import AnswerScorer, SentenceScores
from models.generation import Sample
from models.packed_features import PackedFeatures
from models.vlm import VisionLanguageModel


@dataclass(frozen=True)
class _Asked:
    """A batch of prompts under way; `answers` waits for what is answered. Others as in `Experience`."""

    items: list[PromptItem]
    answers: Callable[[], Sample]
    policy_images: ImageFeatures
    reward_images: ImageFeatures


@dataclass(frozen=True)
class _Answers:
    """What was asked and answered, before anything is said of it; fields as in `Experience`."""

    items: list[PromptItem]
    responses: Tensor
    mask: Tensor
    finite: Tensor
    engine_log_probs: Tensor | None
    policy_images: ImageFeatures
    reward_images: ImageFeatures


class RolloutCollector:
    """Samples prompts with the policy, then lets all roles look at all answers of a step, similar lengths together.

    Args:
        roles: of PPO.
        tokenizer: of both bases.
        stop_ids: tokens that end an answer.
        engine: answers the prompts.
        scoring: how log-probabilities are taken.
        batches, reward_batches: rows that policy, reference and value, or the reward model, look at together.
        numerics: which columns count.
        caches: where features of images are kept from step to step, by tower as in `SeenImages`; None: nowhere.
        by_sentence: whether answers are scored after each of their sentences, too.
        ensemble_beta: what disagreement between several reward models costs (`ensemble_scores`).
        value_sees_facts: the critic reads the reward prompt, too, before the response.
        fact_scorer: pays answers by what they say; None: nobody does.
    """

    def __init__(
        self,
        roles: PPORoles,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        engine: RolloutEngine,
        scoring: ScoringSettings,
        batches: MicroBatches,
        reward_batches: MicroBatches,
        numerics: Numerics = Numerics.CORRECTED,
        caches: Mapping[str, FeatureFiles] | None = None,
        by_sentence: bool = False,
        ensemble_beta: float = 0.0,
        value_sees_facts: bool = False,
        fact_scorer: FactScorer | ClaimScorer | None = None,
    ):
        self.roles, self.tokenizer, self.stop_ids = roles, tokenizer, tuple(stop_ids)
        self.engine, self.scoring = engine, scoring
        self.batches = batches
        self.scorer = AnswerScorer(roles.rewards, reward_batches, self.pad_id, ensemble_beta)
        self.numerics = numerics
        self.caches = caches
        self.by_sentence = by_sentence
        self.value_sees_facts = value_sees_facts
        self.fact_scorer = fact_scorer

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
        # 1. Images, and answers to them: an engine may work on all passes at once.
        seen, asked, start = SeenImages(self.caches), [], 0
        for batch in batches:
            rows = list(order[start : start + len(batch.items)])
            asked.append(self._ask(batch, uniforms[rows], seen))
            start += len(rows)
        answers = _join([_answered(part) for part in asked], order, self.pad_id)
        self.engine.rest()
        responses = Responses(
            *self.numerics.columns(
                answers.responses, answers.mask, self.engine.settings.max_new_tokens, self.pad_id
            )
        )
        counts = responses.counted.sum(dim=1).tolist()
        policy_images, reward_images = answers.policy_images, answers.reward_images
        lengths = [
            max(
                len(expand_query(item.query_ids, policy_images.grids_of(row), self._policy_vlm)),
                len(expand_query(self._value_prompt(item), reward_images.grids_of(row), self._reward_vlm)),
            )
            + count
            for row, (item, count) in enumerate(zip(answers.items, counts, strict=True))
        ]
        # 2. What the roles say of them.
        looks = self._look(answers, responses, lengths)
        texts, members, sentences, facts = self._scored(answers, responses)
        stop_ids = responses.ids.new_tensor(self.stop_ids)
        return Experience(
            items=answers.items,
            responses=responses.ids,
            response_mask=responses.mask,
            counted=responses.counted,
            finite=answers.finite,
            engine_log_probs=_widened(answers.engine_log_probs, responses.ids.shape[1]),
            stopped=(torch.isin(responses.ids, stop_ids) & responses.mask).any(dim=1),
            texts=texts,
            scores=self.scorer.together(members),
            member_scores=members if len(self.roles.rewards) > 1 else None,
            policy_images=answers.policy_images,
            reward_images=answers.reward_images,
            sequence_lengths=lengths,
            sentences=sentences,
            facts=facts,
            **looks,
        )

    def policy_sequences(
        self, items: Sequence[PromptItem], responses: Responses, features: PackedFeatures | None
    ) -> Sequences:
        """Prompts and responses as the policy's base sees them."""
        prompts = [item.query_ids for item in items]
        return self._sequences(self._policy_vlm, prompts, responses, features)

    def value_sequences(
        self, items: Sequence[PromptItem], responses: Responses, images: ImageFeatures, rows: Sequence[int]
    ) -> Sequences | None:
        """What the critic reads, as the reward model's base sees it: prompts, with facts if it sees them, and responses.

        None: there is no critic.
        """
        if self.roles.value is None:
            return None
        prompts = [self._value_prompt(item) for item in items]
        return self._sequences(self._reward_vlm, prompts, responses, images.select(rows))

    def _value_prompt(self, item: PromptItem) -> list[int]:
        return [*item.query_ids, *item.reward_prompt_ids] if self.value_sees_facts else item.query_ids

    @property
    def _policy_vlm(self) -> VisionLanguageModel:
        return self.roles.policy.bank.vlm

    @property
    def _reward_vlm(self) -> VisionLanguageModel:
        return self.roles.reward.bank.vlm

    def _sequences(
        self,
        vlm: VisionLanguageModel,
        prompts: Sequence[Sequence[int]],
        responses: Responses,
        features: PackedFeatures | None,
    ) -> Sequences:
        padding_read = self.numerics.counts_padding
        return join_responses(prompts, responses, features, vlm, self.pad_id, padding_read)

    def _ask(self, batch: PromptBatch, uniforms: Tensor, seen: SeenImages) -> _Asked:
        items = batch.items
        policy_images = seen.encode("policy", self._policy_vlm, batch.images, items)
        reward_images, pixels = policy_images, batch.reward_images or batch.images
        if not self.roles.shared:
            reward_images = seen.encode("reward", self._reward_vlm, pixels, items)
        answers = self.engine.start(batch, uniforms, policy_images.select(range(len(items))))
        # What is kept for the update are features, not pixels.
        items = [replace(item, images=None, reward_images=None) for item in items]
        return _Asked(items, answers, policy_images, reward_images)

    def _look(
        self, answers: _Answers, responses: Responses, lengths: Sequence[int]
    ) -> dict[str, Tensor | None]:
        """What policy, reference and value say of every response: float32[R, T], 0 where not counted."""
        names = ["log_probs", "ref_log_probs"]
        names += ["values"] if self.roles.value is not None else []
        names += ["entropies", "ref_entropies"] if self.scoring.entropy else []
        device = responses.ids.device
        found = {name: torch.zeros(responses.ids.shape, device=device) for name in names}

        def look(rows: list[int]) -> None:
            index = torch.tensor(rows, device=device)
            part = trimmed(responses, rows)
            width = part.ids.shape[1]
            items = [answers.items[row] for row in rows]
            sequences = self.policy_sequences(items, part, answers.policy_images.select(rows))
            for role, prefix in ((self.roles.policy, ""), (self.roles.reference, "ref_")):
                log_probs, entropies = response_log_probs(role, sequences, part.counted, self.scoring)
                found[f"{prefix}log_probs"][index, :width] = log_probs
                if entropies is not None:
                    found[f"{prefix}entropies"][index, :width] = entropies
            sequences = self.value_sequences(items, part, answers.reward_images, rows)
            if sequences is not None:
                found["values"][index, :width] = self.roles.value(*sequences) * part.counted

        self.batches.run(lengths, look)
        return {"values": None, "entropies": None, "ref_entropies": None, **found}

    def _scored(
        self, answers: _Answers, responses: Responses
    ) -> tuple[list[str], Tensor, SentenceScores | None, FactScores | None]:
        """Texts, scores of each reward model float32[R, K] and, where asked for, by sentence and by fact; as in `Experience`."""
        ids = [row[real].tolist() for row, real in zip(responses.ids, responses.mask, strict=True)]
        asked = (answers.items, ids, answers.reward_images)
        if not self.by_sentence and self.fact_scorer is None:
            texts = [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
            return texts, self.scorer.scores(*asked), None, None
        texts = [token_text(self.tokenizer, row) for row in ids]
        members, sentences = (
            self.scorer.sentence_scores(*asked, texts)
            if self.by_sentence
            else (self.scorer.scores(*asked), None)
        )
        facts = self.fact_scorer and self.fact_scorer.scores(answers.items, texts, answers.reward_images)
        return [text.text for text in texts], members, sentences, facts


def _answered(asked: _Asked) -> _Answers:
    sample = asked.answers()
    finite = sample.mask.any(dim=1) if sample.finite is None else sample.finite  # every response has a token
    return _Answers(
        *(asked.items, sample.ids, sample.mask, finite, sample.log_probs),
        asked.policy_images,
        asked.reward_images,
    )


def _widened(log_probs: Tensor | None, width: int) -> Tensor | None:
    """Log-probabilities float32[R, T] in as many columns as are kept."""
    return None if log_probs is None else pad(log_probs, (0, width - log_probs.shape[1]))


def _join(parts: Sequence[_Answers], order: Sequence[int], pad_id: int) -> _Answers:
    """Several passes as one batch of a common width, each row where `order` says."""
    width = max(part.responses.shape[1] for part in parts)
    places = sorted(range(len(order)), key=lambda index: order[index])
    index = torch.tensor(places, device=parts[0].responses.device)

    def cat(tensors: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat([pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors])[index]

    items = [item for part in parts for item in part.items]
    log_probs = [part.engine_log_probs for part in parts]
    return _Answers(
        [items[place] for place in places],
        cat([part.responses for part in parts], pad_id),
        cat([part.mask for part in parts], False),
        torch.cat([part.finite for part in parts])[index],
        None if any(one is None for one in log_probs) else cat(log_probs, 0),
        ImageFeatures.join([part.policy_images for part in parts]).reordered(places),
        ImageFeatures.join([part.reward_images for part in parts]).reordered(places),
    )
