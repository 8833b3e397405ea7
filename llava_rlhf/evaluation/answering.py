"""Answer prompts with any base and optional adapter, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data_utils.batches import collate_prompts
from data_utils.building import build_prompts
from data_utils.conversation import TEMPLATES
from data_utils.datasets import PromptDataset
from llava_rlhf.assembly.conversations import check_conversation
from llava_rlhf.assembly.image_features import SeenImages
from llava_rlhf.assembly.roles import TextSide, load_text_side, row_settings, unsampled_ids
from llava_rlhf.ppo.actor_critic import expanded_queries
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.role_files import POLICY, check_template, find_policy_adapter
from llava_rlhf.runs.stopping import NonFiniteError
from models.adapter_files import check_adapter_fits
from models.adapters import AdapterBank, AdapterSpec
from models.base_check import check_base
from models.generation import Sample, SamplingSettings, sample
from models.roles import Policy
from models.vlm import BaseSettings, VisionLanguageModel, load_base


def check_answerer(
    base: str, adapter: str | None, data: DataArguments, program: str | None = None
) -> tuple[Path | None, TextSide]:
    """The folder of the adapter, if there is one, and the text side of the base that will answer; `program` asks.

    Raises ValueError where base, adapter and conversation template are not there or do not fit each other.
    """
    check_base(base, program=program)
    folder = find_policy_adapter(adapter) if adapter else None
    if folder is not None:
        check_adapter_fits(folder, base)
    check_template(base, folder, data.version)
    text = load_text_side(base, data.image_aspect_ratio)
    check_conversation(base, text.tokenizer, TEMPLATES[data.version])
    return folder, text


def load_prompts(data: DataArguments, text: TextSide, seed: int) -> PromptDataset:
    """A checked file of prompts, for a checkpoint that answers them without being scored. Raises DataError."""
    rows = row_settings(data, text)
    return build_prompts(data.dataset_path, rows, reward_pipeline=None, facts=None, prompt=None, seed=seed)


class Answerer:
    """A base with at most one adapter.

    Args:
        base: LLaVA directory.
        adapter: PEFT folder, or None for the base as it is.
        settings: how to load the base.
    """

    def __init__(self, base: str | Path, adapter: Path | None, settings: BaseSettings):
        self.vlm: VisionLanguageModel = load_base(base, settings)
        self._sample: Callable[..., Sample] = partial(sample, self.vlm)
        if adapter is not None:
            bank = AdapterBank(self.vlm, {POLICY: AdapterSpec(adapter, trainable=False)})
            self._sample = Policy(bank, POLICY).sample

    def sampling(self, text: TextSide, response_len: int, temperature: float) -> SamplingSettings:
        """Answers of at most `response_len` tokens, up to the stop token, of tokens that stand for text."""
        return SamplingSettings(
            response_len,
            text.stop_ids,
            text.tokenizer.pad_token_id,
            temperature,
            tuple(unsampled_ids(text, self.vlm.vocab_size).tolist()),
        )

    def answers(
        self,
        dataset: PromptDataset,
        text: TextSide,
        settings: SamplingSettings,
        batch_size: int,
        samples: int,
        seed: int,
        first: int = 0,
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield batches of records, one an answer, prompt by prompt, in the format of `data_utils.answers`.

        Args:
            dataset: the prompts.
            text: tokenizer of the base.
            settings: temperature and limits.
            batch_size: rows at once.
            samples: answers per prompt.
            seed: of sampling; a row's answer depends neither on the batch it is in nor on `first`.
            first: answers that are there already, and are not given again.
        """
        jobs = [(row, number) for row in range(len(dataset)) for number in range(samples)]
        generator = torch.Generator().manual_seed(seed)
        for _ in range(first):  # the numbers of the answers that are there belong to them
            torch.rand(settings.max_new_tokens, generator=generator)
        with tqdm(total=len(jobs), initial=first, desc="answering", unit="answer", disable=None) as progress:
            for start in range(first, len(jobs), batch_size):
                chosen = jobs[start : start + batch_size]
                uniforms = torch.rand(len(chosen), settings.max_new_tokens, generator=generator)
                yield list(self._answer(dataset, chosen, text, settings, uniforms))
                progress.update(len(chosen))

    def _answer(
        self,
        dataset: PromptDataset,
        jobs: Sequence[tuple[int, int]],
        text: TextSide,
        settings: SamplingSettings,
        uniforms: Tensor,
    ) -> Iterator[dict[str, Any]]:
        batch = collate_prompts([dataset[row] for row, _ in jobs])
        images = SeenImages().encode("policy", self.vlm, batch.images, batch.items)
        features = images.select(range(len(jobs)))
        asked = [item.query_ids for item in batch.items]
        queries = expanded_queries(asked, features, self.vlm, settings.pad_id)
        ids, mask, finite = self._sample(*queries, features, settings, uniforms)
        if not bool(finite.all()):
            rows = sorted(
                {item.row for item, fine in zip(batch.items, finite.tolist(), strict=True) if not fine}
            )
            raise NonFiniteError(f"rows {rows}: the model's logits are not finite; its weights are broken")
        for item, (_, number), row, real in zip(batch.items, jobs, ids, mask, strict=True):
            yield {
                "id": item.id,
                "prompt_row": item.row,
                "image": list(item.image_names),
                **({"captions": list(item.captions)} if item.captions else {}),
                "question": item.question,
                "answer_type": item.answer_type.name,
                "sample": number,
                "answer": text.tokenizer.decode(row[real], skip_special_tokens=True).strip(),
                "tokens": int(real.sum()),
                "stopped": bool(row[real][-1] in settings.stop_ids),
            }
