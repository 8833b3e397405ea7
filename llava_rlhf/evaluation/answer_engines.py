"""Who answers for the programs: a base with its adapter in this process, or servers that have both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from data_utils.batches import PromptBatch
from data_utils.datasets import PromptDataset
from llava_rlhf.assembly.image_features import SeenImages, padded_queries
from llava_rlhf.assembly.roles import TextSide, unsampled_ids
from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.engines.handshake import Wanted, check_servers, demanding_prompts
from llava_rlhf.engines.making import served_answers
from llava_rlhf.engines.pictures import ServedPictures
from llava_rlhf.engines.prompts import PromptWriter
from llava_rlhf.engines.serving import check_served
from llava_rlhf.evaluation.answering import Answerer
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.role_files import POLICY
from models.adapters import AdapterBank, AdapterSpec
from models.base_files import read_base_config
from models.generation import Sample, SamplingSettings, sample
from models.packed_features import PackedFeatures
from models.roles import Policy
from models.vlm import BaseSettings, VisionLanguageModel, load_base

SERVED_AHEAD = 1  # servers begin the next batch while the last answers of one are written


@contextmanager
def open_answerer(
    base: str,
    adapter: Path | None,
    loading: BaseSettings,
    engine: ServerArguments,
    text: TextSide,
    prompts: PromptDataset,
    data: DataArguments,
    temperature: float,
) -> Iterator[Answerer]:
    """Who answers; servers have nothing of it afterwards.

    Args:
        base: directory.
        adapter: PEFT folder, or None for the base as it is.
        loading: how to load the base, where it answers here.
        engine: whether it does.
        text: of the base.
        prompts: what is asked.
        data: their limits and the folder of their images.
        temperature: 0: the most likely token.
    """
    vocab_size = read_base_config(base).get_text_config().vocab_size
    settings = sampling_settings(text, vocab_size, data.response_len, temperature)
    if not engine.served:
        yield Answerer(BaseEngine(base, adapter, loading, settings))
        return
    with served_answers(engine, adapter, settings, text, prompts, data.image_folder, vocab_size) as served:
        yield Answerer(served, SERVED_AHEAD)


def ask_servers(
    base: str,
    adapter: Path | None,
    engine: ServerArguments,
    text: TextSide,
    prompts: PromptDataset,
    data: DataArguments,
) -> None:
    """Look whether the servers, where there are any, can answer these prompts; arguments as for `open_answerer`.

    Raises ValueError where they can't.
    """
    if not engine.served:
        return
    check_served(base)
    writer = PromptWriter(text, ServedPictures(data.image_folder, text.pipeline, text.family))
    asked = demanding_prompts(prompts, writer)
    check_servers(engine, Wanted(base, asked, data.response_len, adapter, None))


def sampling_settings(
    text: TextSide, vocab_size: int, response_len: int, temperature: float
) -> SamplingSettings:
    """Answers of at most `response_len` tokens, up to the stop token, of tokens that stand for text.

    Args:
        text: of the base.
        vocab_size: rows of its vocabulary projection.
        response_len: tokens.
        temperature: 0: the most likely token.
    """
    return SamplingSettings(
        response_len,
        text.stop_ids,
        text.tokenizer.pad_token_id,
        temperature,
        tuple(unsampled_ids(text, vocab_size).tolist()),
    )


class BaseEngine:
    """As `RolloutEngine`: a base with at most one adapter, in this process.

    Args:
        base: directory.
        adapter: PEFT folder, or None for the base as it is.
        loading: how to load the base.
        settings: how it answers.
    """

    def __init__(
        self, base: str | Path, adapter: Path | None, loading: BaseSettings, settings: SamplingSettings
    ):
        self.settings = settings
        self._vlm: VisionLanguageModel = load_base(base, loading)
        self._sample: Callable[..., Sample] = partial(sample, self._vlm)
        if adapter is not None:
            bank = AdapterBank(self._vlm, {POLICY: AdapterSpec(adapter, trainable=False)})
            self._sample = Policy(bank, POLICY).sample

    def begin_step(self, step: int) -> None:
        """Nothing to do: the weights stay as they are."""

    def start(
        self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None
    ) -> Callable[[], Sample]:
        """As `RolloutEngine.start`; the answers are there at once, and the pictures are encoded here."""
        images = SeenImages().encode("policy", self._vlm, batch.images, batch.items)
        features = images.select(range(len(batch.items)))
        asked = [item.query_ids for item in batch.items]
        queries = padded_queries(asked, features, self._vlm, self.settings.pad_id)
        answers = self._sample(*queries, features, self.settings, uniforms)
        return lambda: answers

    def rest(self) -> None:
        """Nothing is held between two steps."""

    def end(self) -> None:
        """Nothing was taken."""
