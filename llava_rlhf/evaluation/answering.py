"""Answer prompts with any base and optional adapter, in batches, here or on servers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from data_utils.batches import collate_prompts
from data_utils.building import build_prompts
from data_utils.datasets import PromptDataset
from data_utils.items import PromptItem
from llava_rlhf.assembly.conversations import check_conversation
from llava_rlhf.assembly.image_choices import check_limits
from llava_rlhf.assembly.roles import TextSide, load_text_side, row_settings
from llava_rlhf.engines.interface import RolloutEngine
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.role_files import check_pieces, check_template, find_policy_adapter
from llava_rlhf.runs.stopping import NonFiniteError
from models.adapter_files import check_adapter_fits
from models.base_check import check_base
from models.generation import Sample


def check_answerer(base: str, adapter: str | None, data: DataArguments) -> tuple[Path | None, TextSide]:
    """The folder of the adapter, if there is one, and the text side of the base that will answer.

    Raises ValueError where base, adapter and conversation template are not there or do not fit each other.
    """
    check_base(base)
    folder = find_policy_adapter(adapter) if adapter else None
    if folder is not None:
        check_adapter_fits(folder, base)
    check_template(base, folder, data.version, data.system_message)
    text = load_text_side(base, data.image_choices(), data.version, data.system_message)
    check_limits(base, folder, text.image_choices)
    check_conversation(base, text.tokenizer, text.template)
    check_pieces(base, folder, text.template)
    return folder, text


def load_prompts(data: DataArguments, text: TextSide, seed: int) -> PromptDataset:
    """A checked file of prompts, for a checkpoint that answers them without being scored. Raises DataError."""
    rows = row_settings(data, text)
    return build_prompts(data.dataset_path, rows, reward_pipeline=None, facts=None, prompt=None, seed=seed)


class _Asked(NamedTuple):
    """A batch that is under way: its prompts, the number of each answer among those to its prompt, and what waits for them."""

    items: Sequence[PromptItem]
    numbers: Sequence[int]
    answers: Callable[[], Sample]


class Answerer:
    """Asks prompts, and writes down the answers.

    Args:
        engine: who answers, and how.
        ahead: batches that are under way besides the one that is waited for.
    """

    def __init__(self, engine: RolloutEngine, ahead: int = 0):
        self._engine, self._ahead = engine, ahead

    def answers(
        self,
        dataset: PromptDataset,
        text: TextSide,
        batch_size: int,
        samples: int,
        seed: int,
        first: int = 0,
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield batches of records, one an answer, prompt by prompt, in the format of `data_utils.answers`.

        Args:
            dataset: the prompts.
            text: tokenizer of the base.
            batch_size: rows at once.
            samples: answers per prompt.
            seed: of sampling; a row's answer depends neither on the batch it is in nor on `first`.
            first: answers that are there already, and are not given again.
        """
        jobs = [(row, number) for row in range(len(dataset)) for number in range(samples)]
        tokens = self._engine.settings.max_new_tokens
        generator = torch.Generator().manual_seed(seed)
        for _ in range(first):  # the numbers of the answers that are there belong to them
            torch.rand(tokens, generator=generator)
        with tqdm(total=len(jobs), initial=first, desc="answering", unit="answer", disable=None) as progress:
            batches = [jobs[start : start + batch_size] for start in range(first, len(jobs), batch_size)]
            numbers = (torch.rand(len(chosen), tokens, generator=generator) for chosen in batches)
            for asked in self._under_way(dataset, zip(batches, numbers, strict=True)):
                yield list(self._answer(asked, text))
                progress.update(len(asked.numbers))

    def _under_way(
        self, dataset: PromptDataset, batches: Iterable[tuple[Sequence[tuple[int, int]], Tensor]]
    ) -> Iterator[_Asked]:
        """Batches in their order, each when as many behind it are asked as may be."""
        asked: deque[_Asked] = deque()
        for chosen, uniforms in batches:
            asked.append(self._ask(dataset, chosen, uniforms))
            if len(asked) > self._ahead:
                yield asked.popleft()
        yield from asked

    def _ask(self, dataset: PromptDataset, jobs: Sequence[tuple[int, int]], uniforms: Tensor) -> _Asked:
        batch = collate_prompts([dataset[row] for row, _ in jobs])
        self._engine.begin_step(0)
        return _Asked(batch.items, [number for _, number in jobs], self._engine.start(batch, uniforms, None))

    def _answer(self, asked: _Asked, text: TextSide) -> Iterator[dict[str, Any]]:
        found = asked.answers()
        if found.finite is not None and not bool(found.finite.all()):
            rows = sorted(
                {item.row for item, fine in zip(asked.items, found.finite.tolist(), strict=True) if not fine}
            )
            raise NonFiniteError(f"rows {rows}: the model's logits are not finite; its weights are broken")
        for item, number, row, real in zip(asked.items, asked.numbers, found.ids, found.mask, strict=True):
            yield {
                "id": item.id,
                "prompt_row": item.row,
                "image": list(item.image_names),
                **({"captions": list(item.captions)} if item.captions else {}),
                **item.facts.written(),
                "question": item.question,
                "answer_type": item.answer_type.name,
                "sample": number,
                "answer": text.tokenizer.decode(row[real], skip_special_tokens=True).strip(),
                "tokens": int(real.sum()),
                "stopped": bool(row[real][-1] in self._engine.settings.stop_ids),
            }
