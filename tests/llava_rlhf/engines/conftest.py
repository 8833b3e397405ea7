"""A probe of the tiny run, and servers that a test scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from llava_rlhf.engines.http import Server
from llava_rlhf.engines.pictures import ServedPictures
from llava_rlhf.engines.pool import ServerPool
from llava_rlhf.engines.probe import Probe, choose_probe
from llava_rlhf.engines.prompts import PromptWriter
from tests.support.fake_vllm import FakeVLLM
from tests.support.tiny_models import IMAGE


@pytest.fixture
def writer(parts) -> PromptWriter:
    """Of the run's prompts."""
    prepared = parts.prepared
    text, folder = prepared.text, prepared.settings.data.image_folder
    return PromptWriter(text, ServedPictures(folder, text.pipeline, text.family))


@pytest.fixture
def probe(parts, writer) -> Probe:
    return choose_probe(parts.prepared.prompts, writer, parts.trainer.collector.engine.settings)


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[list[FakeVLLM], ServerPool]]]:
    """scripted(count, sleeps): so many servers that read prompts as the tiny base does, and a pool of them."""

    def widened(ids: list[int]) -> list[int]:
        return [index for one in ids for index in ([one] * 4 if one == IMAGE else [one])]

    with ExitStack() as stack:

        def scripted(count: int, sleeps: bool = False) -> tuple[list[FakeVLLM], ServerPool]:
            fakes = [stack.enter_context(FakeVLLM(widen=widened)) for _ in range(count)]
            pool = ServerPool([Server(fake.url, None, 20.0, 9, sleeps) for fake in fakes], 8)
            stack.callback(pool.close)
            return fakes, pool

        yield scripted
