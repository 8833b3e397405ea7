"""An adapter of some folder onto the servers, under a name: loaded, asked the probe, unloaded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.engines.pool import REFUSALS, ServerPool, rest_after
from llava_rlhf.engines.probe import Probe, ProbeAnswer
from llava_rlhf.engines.serving import SERVED_NAME
from llava_rlhf.engines.sleep import wake
from llava_rlhf.runs.stopping import EngineError

LOAD, UNLOAD, MODELS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models"
GRACE_SECONDS = (
    20.0  # for the others, once one server has the adapter; whoever comes later is given it when it is asked
)

logger = logging.getLogger(__name__)


class NotTakenError(TryAgainError):
    """A server that is well does not take the adapter, as one that was started again with a lower rank."""

    def __init__(self, message: str):
        super().__init__(message, True)


@dataclass(frozen=True)
class Version:
    """An adapter on the servers.

    Attributes:
        name: there.
        folder: where it lies.
        empty: whether it changes nothing, as one that was never trained.
        ids, table: an answer at the probe, and what the model that trains says along it (float32[T, V]).
    """

    name: str
    folder: Path
    empty: bool
    ids: tuple[int, ...] = ()
    table: Tensor | None = None


class Said(NamedTuple):
    """What a server answers at the probe, with the adapter and without."""

    url: str
    adapted: ProbeAnswer
    bare: ProbeAnswer


class AdapterKeeper(Protocol):
    """Keeps an adapter on the servers."""

    def deliver(self, step: int, until: float) -> str:
        """Put the weights of now on the servers. All processes call it.

        Args:
            step: counted from 0.
            until: on the clock of `time.monotonic`.

        Returns:
            The name under which they answer.

        Raises:
            EngineError: in every process: no server takes it, or one answers with other weights.
        """
        ...

    def shown(self, server: Server) -> bool:
        """Whether a server has shown that it answers with the current adapter."""
        ...

    async def restore(self, server: Server) -> None:
        """Give the current adapter to a server that was not ready for it, or has lost it, as one that was started again has.

        Raises:
            EngineError: it answers with other weights, or no server takes it.
            TryAgainError: this one can't be reached, or does not take it.
        """
        ...

    def end(self) -> None:
        """Take the adapter back, as far as servers still answer. All processes call it."""
        ...


def load_everywhere(pool: ServerPool, version: Version, probe: Probe, until: float) -> list[Said]:
    """Load a version at every server that takes it in time; at least one does.

    Args:
        pool: of servers.
        version: of the adapter.
        probe: the question.
        until: on the clock of `time.monotonic`.

    Returns:
        What those servers say.

    Raises:
        EngineError: none takes it, or one reads prompts in another way, or wants another key.
    """
    work = {pool.begin(_load_until(server, version, probe, until)): server for server in pool.servers}
    done, late = _until_one_has_it(work)
    for future in late:
        future.cancel()
        logger.warning("%s is not ready; it is given the adapter when it answers", work[future].url)
    failures = [error for future in done if (error := future.exception()) is not None]
    for error in failures:
        if isinstance(error, EngineError):
            raise error
    if len(failures) == len(done):
        reason = next(
            (error for error in failures if isinstance(error, (NotTakenError, RefusedError))), failures[0]
        )
        raise EngineError(
            f"no server takes the adapter; {reason}. Start servers with scripts/serve_policy.sh, and the same command again"
        ) from reason
    for error in failures:
        logger.warning("the other servers take its rows: %s", error)
    return [future.result() for future in done if future.exception() is None]


def _until_one_has_it(work: Collection[Future[Said]]) -> tuple[set[Future[Said]], set[Future[Said]]]:
    """Those that are done and those that are not, some time after one server has the adapter, or none will."""
    done, late = set[Future[Said]](), set(work)
    while late and not any(future.exception() is None for future in done):
        more, late = wait(late, return_when="FIRST_COMPLETED")
        done |= more
        if any(isinstance(future.exception(), EngineError) for future in more):
            break
    more, late = wait(late, timeout=GRACE_SECONDS)
    return done | more, late


async def load(server: Server, version: Version, probe: Probe) -> Said:
    """Wake a server that sleeps between steps, load a version there, and ask the probe with it and without.

    Raises:
        EngineError: it reads prompts in another way, or wants another key.
        NotTakenError: it does not take the adapter.
        TryAgainError: it can't be reached.
    """
    if server.sleeps:
        await wake(server)
    if not await holds(server, version):
        body = {"lora_name": version.name, "lora_path": str(version.folder)}
        try:
            await server.post(LOAD, body)
        except RefusedError as error:
            if error.status >= 500 and not await server.healthy():
                raise TryAgainError(str(error), True) from error
            if not await holds(server, version):  # else another process was faster
                raise NotTakenError(refusal(server.url, version.folder, error.reason)) from error
    try:
        adapted = await probe.ask(server, version.name)
        bare = await probe.ask(server, SERVED_NAME)
    except RefusedError as error:
        if not await server.healthy():
            raise TryAgainError(str(error), True) from error
        raise NotTakenError(f"a first question with the new adapter was refused: {error}") from error
    return Said(server.url, adapted, bare)


async def holds(server: Server, version: Version) -> bool:
    """Whether a server has a version, from its own folder."""
    cards = (await server.get(MODELS))["data"]
    return any(card["id"] == version.name and card["root"] == str(version.folder) for card in cards)


def unload_everywhere(pool: ServerPool, name: str) -> None:
    """Take an adapter back from every server that still answers."""
    wait([pool.begin(unload(server, name)) for server in pool.servers], timeout=GRACE_SECONDS)


async def unload(server: Server, name: str) -> None:
    """Take an adapter back, where the server still answers."""
    with suppress(TryAgainError, RefusedError):
        await server.post(UNLOAD, {"lora_name": name})


def refusal(url: str, folder: Path, reason: str) -> str:
    """What to say where a server does not take an adapter."""
    hint = "look at the server's log"
    if "rank" in reason.lower():
        hint = "start the server with a higher LORA_RANK (scripts/serve_policy.sh)"
    elif any(words in reason.lower() for words in ("no adapter found", "not found", "no such file")):
        hint = (
            "the folder must be on a disk that the server sees under the same path (training names one with "
            "--vllm_adapter_folder)"
        )
    return f"{url} does not take the adapter {folder}: {reason}; {hint}"


async def _load_until(server: Server, version: Version, probe: Probe, until: float) -> Said:
    """`load`, again and again while the server can't be reached, and some times where it refuses. Raises as it does."""
    failures = refused = 0
    while True:
        try:
            return await load(server, version, probe)
        except (TryAgainError, RefusedError) as error:
            failures += 1
            refused += isinstance(error, (NotTakenError, RefusedError))
            rest = rest_after(failures)
            if refused >= REFUSALS or time.monotonic() + rest >= until:
                raise
            await asyncio.sleep(rest)
