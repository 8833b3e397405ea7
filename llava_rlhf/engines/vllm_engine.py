"""vLLM servers answer: prompts go out as ids, ids come back, and every answer is checked before it is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import torch
from torch import Tensor

from data_utils.batches import PromptBatch
from data_utils.items import PromptItem
from llava_rlhf.assembly.token_text import token_text
from llava_rlhf.engines.answer import Answer, AnswerCheck, WrongAnswerError, as_sample
from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.engines.loading import AdapterKeeper
from llava_rlhf.engines.pool import ServerPool
from llava_rlhf.engines.processes import agree, from_main
from llava_rlhf.engines.prompts import PromptWriter, ServedPrompt
from llava_rlhf.engines.request import GENERATE, generate_body, row_seeds, sampling_params
from llava_rlhf.engines.sleep import sleep_everywhere, wake_everywhere
from llava_rlhf.runs.stopping import EngineError
from models.generation import Sample, SamplingSettings
from models.packed_features import PackedFeatures

NOT_FOUND = 404  # of a model: the server does not have it (any more)


class VLLMEngine:
    """As `RolloutEngine`.

    Attributes:
        pool: the servers.
        writer: of prompts.
        settings: how they answer.
        vocab_size: rows of the vocabulary projection.
        adapter: what keeps the weights on them.
        step_timeout: seconds for all answers of a step.
    """

    def __init__(
        self,
        pool: ServerPool,
        writer: PromptWriter,
        settings: SamplingSettings,
        vocab_size: int,
        adapter: AdapterKeeper,
        step_timeout: float,
    ):
        self.settings, self.pool, self.writer, self.adapter = settings, pool, writer, adapter
        self.step_timeout = step_timeout
        self.vocab_size, self._check = vocab_size, AnswerCheck(settings, vocab_size)
        self._model, self._until = "", 0.0
        self._asked: list[Future[Answer]] = []

    def begin_step(self, step: int) -> None:
        """As `RolloutEngine.begin_step`. Raises EngineError in every process."""
        self._make_room_for_servers()
        self._until = time.monotonic() + self.step_timeout
        self._model = self.adapter.deliver(step, self._until)

    def start(
        self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None
    ) -> Callable[[], Sample]:
        """As `RolloutEngine.start`; all rows are under way at once, and the servers encode the pictures themselves.

        What it returns raises EngineError in every process where one has no answers; all must call it.
        """
        seeds = row_seeds(uniforms)
        rows = zip(batch.items, seeds, strict=True)
        asked = [self.pool.begin(self._answer(self._model, item, seed, self._until)) for item, seed in rows]
        self._asked = [future for future in self._asked if not future.done()] + asked
        return lambda: self._wait(asked, uniforms.device)

    def rest(self) -> None:
        """As `RolloutEngine.rest`. Raises EngineError in every process."""
        if self.pool.sleeps:  # every process has waited for its answers, and for those of the others
            from_main(lambda: sleep_everywhere(self.pool))

    def end(self) -> None:
        """As `RolloutEngine.end`; servers are left awake for whoever asks them next."""
        for future in self._asked:  # of a run that was stopped: or they would want the adapter again
            future.cancel()
        if self.pool.sleeps:
            self._make_room_for_servers()
            from_main(lambda: wake_everywhere(self.pool))
        self.adapter.end()

    def _make_room_for_servers(self) -> None:
        """Give back GPU memory that nothing lies in, everywhere before a server wants it."""
        if self.pool.sleeps:
            torch.cuda.empty_cache()
            agree(None)

    def _wait(self, asked: Sequence[Future[Answer]], device: torch.device) -> Sample:
        answers, failure = [], None
        try:
            answers = [future.result() for future in asked]
        except (EngineError, CancelledError) as error:
            failure = str(error)
        finally:
            for future in asked:
                future.cancel()
        agree(failure)
        return as_sample(answers, self.settings.pad_id, device)

    async def _answer(self, model: str, item: PromptItem, seed: int, until: float) -> Answer:
        """The answer of a row, from whichever server."""
        prompt = await asyncio.to_thread(self._written, item)
        body = generate_body(model, prompt.token_ids, prompt.pictures, sampling_params(self.settings, seed))

        async def question(server: Server) -> Any:
            if not self.adapter.shown(server):
                await self.adapter.restore(server)
            try:
                return await server.post(GENERATE, body)
            except RefusedError as error:
                if error.status != NOT_FOUND:
                    raise
                await self.adapter.restore(server)
                raise TryAgainError(str(error), False) from error

        reply = await self.pool.ask(question, until)
        try:
            return self._check.read(reply, model, prompt.expanded)
        except WrongAnswerError as error:
            raise EngineError(self._described(item, reply, error)) from error

    def _written(self, item: PromptItem) -> ServedPrompt:
        try:
            return self.writer.write(item)
        except ValueError as error:  # of a picture that is damaged since it was looked at
            raise EngineError(f"row {item.row} can't be asked: {error}") from error

    def _described(self, item: PromptItem, reply: Any, error: WrongAnswerError) -> str:
        """The first example of a wrong answer."""
        with_text = ""
        try:
            ids = reply["choices"][0]["token_ids"]
            with_text = f" The answer: {token_text(self.writer.text.tokenizer, ids).text!r}."
        except (TypeError, KeyError, IndexError, OverflowError):
            pass
        return (
            f"a server's answer to row {item.row} of the prompts is none: {error}. The question: {item.question!r}.{with_text} "
            "It was not used; start the server again with scripts/serve_policy.sh and this run's base"
        )
