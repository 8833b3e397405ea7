"""The engine that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_utils.datasets import PromptDataset
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.engines.adapters import ServedAdapter
from llava_rlhf.engines.arguments import EngineArguments, ServerArguments
from llava_rlhf.engines.http import Server
from llava_rlhf.engines.interface import RolloutEngine
from llava_rlhf.engines.pictures import ServedPictures
from llava_rlhf.engines.policy_engine import PolicyEngine
from llava_rlhf.engines.pool import ServerPool
from llava_rlhf.engines.probe import choose_probe
from llava_rlhf.engines.processes import agree, from_main
from llava_rlhf.engines.prompts import PromptWriter
from llava_rlhf.engines.sleep import sleep_everywhere
from llava_rlhf.engines.stored_adapter import StoredAdapter
from llava_rlhf.engines.vllm_engine import VLLMEngine
from llava_rlhf.hub.places import base_name
from models.generation import SamplingSettings
from models.roles import Policy


def make_engine(
    arguments: EngineArguments,
    policy: Policy,
    settings: SamplingSettings,
    text: TextSide,
    prompts: PromptDataset | None,
    image_folder: str | None,
    output_dir: str | Path,
    base: str,
    merge_adapter: bool,
) -> RolloutEngine:
    """Who answers prompts.

    Args:
        arguments: which engine, and its servers.
        policy: with whose weights.
        settings: how.
        text: of its base.
        prompts: of the run, among which the question is chosen that shows a server's weights; None: the policy answers.
        image_folder: of their pictures.
        output_dir: run folder.
        base: as it was named.
        merge_adapter: see `PolicyEngine`.
    """
    if not arguments.served or prompts is None:
        return PolicyEngine(policy, settings, merge_adapter)
    writer = PromptWriter(text, ServedPictures(image_folder, text.pipeline, text.family))
    adapter = ServedAdapter(
        policy,
        pool := make_pool(arguments),
        arguments.adapter_folder(output_dir),
        choose_probe(prompts, writer, settings),
        base_name(base),
    )
    return VLLMEngine(
        pool, writer, settings, policy.bank.vlm.vocab_size, adapter, arguments.vllm_step_timeout
    )


@contextmanager
def served_answers(
    arguments: ServerArguments,
    adapter: Path | None,
    settings: SamplingSettings,
    text: TextSide,
    prompts: PromptDataset,
    image_folder: str,
    vocab_size: int,
) -> Iterator[VLLMEngine]:
    """Servers that answer for a program without a model of its own; they have nothing of it afterwards.

    Args:
        arguments: the servers.
        adapter: PEFT folder, which they read where it lies; None: the base answers.
        settings: how.
        text: of the base.
        prompts: as for `make_engine`.
        image_folder: of their pictures.
        vocab_size: rows of the vocabulary projection.
    """
    writer = PromptWriter(text, ServedPictures(image_folder, text.pipeline, text.family))
    pool = make_pool(arguments)
    stored = StoredAdapter(pool, adapter, choose_probe(prompts, writer, settings))
    engine = VLLMEngine(pool, writer, settings, vocab_size, stored, arguments.vllm_step_timeout)
    try:
        yield engine
    finally:
        engine.end()
        pool.close()


def make_pool(arguments: ServerArguments) -> ServerPool:
    """The servers that the settings name."""
    in_flight, key = arguments.vllm_requests_in_flight, arguments.api_key()
    servers = [
        Server(url, key, arguments.vllm_request_timeout, in_flight + 1, arguments.sleeps)
        for url in arguments.vllm_servers
    ]
    return ServerPool(servers, in_flight)


def make_room(arguments: ServerArguments) -> None:
    """Send servers that share the GPUs of training to sleep, before its models are loaded. All processes call it.

    Raises:
        EngineError: in every process: one does not sleep.
    """
    if not arguments.sleeps:
        return
    agree(None)  # whoever looked at them has
    pool = make_pool(arguments)
    try:
        from_main(lambda: sleep_everywhere(pool))
    finally:
        pool.close()
