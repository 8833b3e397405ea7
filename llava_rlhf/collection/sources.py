"""The two sources of pairs: prompts that a checkpoint answers, and answers that were sampled before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from data_utils.answers import AnswerRecord, file_kind, read_answers
from data_utils.datasets import PromptDataset
from data_utils.image_choices import ImageChoices
from data_utils.problems import DataError
from data_utils.row_filter import RowFilter
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.collection.arguments import CollectArguments, CollectedDataArguments
from llava_rlhf.collection.sampling import lines_from_answers, sampled_batches
from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.evaluation.answer_engines import ask_servers, open_answerer
from llava_rlhf.evaluation.answering import Answerer, check_answerer, load_prompts
from llava_rlhf.runs.arguments import ModelArguments
from llava_rlhf.runs.logs import announce
from models.adapter_files import ADAPTER_WEIGHTS
from models.base_fingerprint import base_fingerprint


class Source(Protocol):
    """Where pairs come from."""

    def identity(self) -> dict[str, Any]:
        """What the pairs depend on, so that no folder mixes those of two models."""
        ...

    def ask_servers(self, known: frozenset[int]) -> None:
        """Look whether servers, where there are any, can answer the rows that are not known. Raises ValueError."""
        ...

    def batches(self, known: frozenset[int]) -> Iterator[Sequence[dict[str, Any]]]:
        """Lines of the pairs file, batch by batch, without the rows that are known; loads a model only for new ones."""
        ...


@dataclass(frozen=True)
class GivenSource:
    """Pairs are made of answers that were sampled before."""

    arguments: CollectArguments
    data: CollectedDataArguments
    lines: list[dict[str, Any]]

    def identity(self) -> dict[str, Any]:
        """As `Source.identity`."""
        return _common_identity(self.arguments, self.data)

    def ask_servers(self, known: frozenset[int]) -> None:
        """As `Source.ask_servers`: nobody answers."""

    def batches(self, known: frozenset[int]) -> Iterator[Sequence[dict[str, Any]]]:
        """As `Source.batches`: all at once."""
        yield [line for line in self.lines if line["row"] not in known]


@dataclass(frozen=True)
class SampledSource:
    """Pairs are sampled from a checkpoint."""

    arguments: CollectArguments
    data: CollectedDataArguments
    model: ModelArguments
    engine: ServerArguments
    adapter: Path | None
    text: TextSide
    prompts: PromptDataset

    def identity(self) -> dict[str, Any]:
        """As `Source.identity`."""
        return _common_identity(self.arguments, self.data) | {
            "base_fingerprint": base_fingerprint(self.arguments.base_model_name),
            "adapter_sha256": None if self.adapter is None else _sha256(self.adapter / ADAPTER_WEIGHTS),
            "temperature": self.arguments.temperature,
            "samples": self.arguments.samples,
            "response_len": self.data.response_len,
            "version": self.data.version,
            **_named(self.text.image_choices),
            # None: folders of before servers could answer go on.
            "rollout_engine": self.engine.rollout_engine if self.engine.served else None,
        }

    def ask_servers(self, known: frozenset[int]) -> None:
        """As `Source.ask_servers`."""
        if not self._answered(known):
            base = self.arguments.base_model_name
            ask_servers(base, self.adapter, self.engine, self.text, self.prompts, self.data)

    def batches(self, known: frozenset[int]) -> Iterator[Sequence[dict[str, Any]]]:
        """As `Source.batches`."""
        if self._answered(known):
            return
        size, seed = self.arguments.prompts_per_batch, self.arguments.seed
        with self.answerer() as answerer:
            yield from sampled_batches(
                answerer, self.prompts, self.text, self.arguments.samples, size, seed, known
            )

    def answerer(self) -> AbstractContextManager[Answerer]:
        """Who answers, see `open_answerer`."""
        arguments = self.arguments
        device = "cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu"
        return open_answerer(
            arguments.base_model_name,
            self.adapter,
            self.model.base_settings(arguments.bf16, False, device),
            self.engine,
            self.text,
            self.prompts,
            self.data,
            arguments.temperature,
        )

    def _answered(self, known: frozenset[int]) -> bool:
        return known.issuperset(self.prompts.column("row"))


def find_source(
    arguments: CollectArguments, data: CollectedDataArguments, model: ModelArguments, engine: ServerArguments
) -> GivenSource | SampledSource:
    """The source that the flags describe. Raises ValueError for what a user can get wrong; loads no model."""
    if _holds_answers(data):
        return _given_source(arguments, data, engine)
    return _sampled_source(arguments, data, model, engine)


def _holds_answers(data: CollectedDataArguments) -> bool:
    """Whether the data file holds answers rather than prompts."""
    try:
        return file_kind(data.dataset_path) == "answers"
    except DataError:
        return False  # whoever reads it as prompts says what is wrong


def _given_source(
    arguments: CollectArguments, data: CollectedDataArguments, engine: ServerArguments
) -> GivenSource:
    """Pairs of an answers file. Raises ValueError when it can't be used, or a model is named besides."""
    if arguments.base_model_name is not None or arguments.adapter is not None:
        raise ValueError(
            f"--dataset_path {data.dataset_path} holds answers: leave out --base_model_name and --adapter, or name prompts"
        )
    if engine.served:
        raise ValueError(
            f"--dataset_path {data.dataset_path} holds answers, so that servers have nothing to answer: leave out "
            "--rollout_engine and --vllm_servers, or name prompts"
        )
    records, problems = read_answers(data.dataset_path)
    row_filter = RowFilter(data.dataset_path, problems, data.skip_invalid, data.image_checks())
    usable: list[AnswerRecord] = list(row_filter.usable(records, data.image_folder))
    if row_filter.problems and not data.skip_invalid:
        raise DataError(row_filter.problems)
    try:
        lines = lines_from_answers(usable, arguments.prompts_per_batch)
    except ValueError as error:
        raise ValueError(f"--dataset_path {data.dataset_path}: {error}") from None
    return GivenSource(arguments, data, lines[: arguments.max_prompts or None])


def _sampled_source(
    arguments: CollectArguments, data: CollectedDataArguments, model: ModelArguments, engine: ServerArguments
) -> SampledSource:
    """Prompts for a checkpoint. Raises ValueError when they or it can't be used."""
    if arguments.base_model_name is None:
        raise ValueError("--base_model_name is required, unless --dataset_path holds answers")
    engine.check_bits(model.bits)
    adapter, text = check_answerer(arguments.base_model_name, arguments.adapter, data)
    prompts = load_prompts(data, text, arguments.seed)
    announce(prompts.report, main_process=True)
    if arguments.max_prompts:
        prompts = prompts.select(range(min(arguments.max_prompts, len(prompts))))
    return SampledSource(arguments, data, model, engine, adapter, text, prompts)


def _named(choices: ImageChoices) -> dict[str, Any]:
    """What a family leaves to choose of how pictures become pixels."""
    return {name: value for name, value in vars(choices).items() if value is not None}


def _common_identity(arguments: CollectArguments, data: CollectedDataArguments) -> dict[str, Any]:
    return {
        "dataset_sha256": _sha256(data.dataset_path),
        "prompts_per_batch": arguments.prompts_per_batch,
        "seed": arguments.seed,
    }


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
        return digest.hexdigest()
