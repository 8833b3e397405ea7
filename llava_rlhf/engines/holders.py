"""Which servers have shown that they answer with the adapter of now, and how another one comes to it.

Rows go only to servers that have: one that was not ready when the adapter was delivered, or has lost it since, is given it
and asked the probe first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.engines.loading import NotTakenError, Said, Version, holds, load
from llava_rlhf.engines.pool import REFUSALS, ServerPool
from llava_rlhf.engines.probe import Probe
from llava_rlhf.runs.stopping import EngineError

logger = logging.getLogger(__name__)


class Holders:
    """The servers of a pool that hold an adapter.

    Args:
        pool: of servers.
        probe: the question.
    """

    def __init__(self, pool: ServerPool, probe: Probe):
        self._pool, self._probe = pool, probe
        self._shown: set[str] = set()
        self._refusals: dict[str, int] = {}  # of the adapter of now, in a row
        self._failed: dict[str, tuple[float, Exception]] = {}  # when, and how, giving it failed last
        self._locks: dict[str, asyncio.Lock] = {}

    def begin(self, urls: Iterable[str]) -> None:
        """There is a new adapter, and these servers have shown it."""
        self._shown = set(urls)
        self._refusals.clear()

    def __contains__(self, url: str) -> bool:
        return url in self._shown

    async def give(self, server: Server, version: Version, look: Callable[[Said], None]) -> None:
        """Load the adapter of now at a server that has not shown it, or has lost it.

        Args:
            server: of the pool.
            version: the adapter.
            look: raises EngineError where what the server says is wrong.

        Raises:
            EngineError: `look` did, or no server takes the adapter.
            TryAgainError: this one can't be reached, or does not take it.
        """
        asked = time.monotonic()
        async with self._locks.setdefault(server.url, asyncio.Lock()):
            if server.url in self._shown and await holds(server, version):
                return
            if server.url in self._failed and self._failed[server.url][0] > asked:
                raise self._failed[server.url][1]  # while this row waited for its turn
            self._shown.discard(server.url)
            logger.warning("%s has not the adapter, as after a restart: loaded again", server.url)
            try:
                said = await load(server, version, self._probe)
            except (TryAgainError, RefusedError) as error:
                self._failed[server.url] = time.monotonic(), error
                if isinstance(error, NotTakenError):
                    self._count(server, error)
                raise
            look(said)
            self._refusals.pop(server.url, None)
            self._shown.add(server.url)

    def _count(self, server: Server, error: NotTakenError) -> None:
        """Raise EngineError once every server has refused the adapter again and again."""
        self._refusals[server.url] = self._refusals.get(server.url, 0) + 1
        if all(self._refusals.get(one.url, 0) >= REFUSALS for one in self._pool.servers):
            raise EngineError(f"no server takes the adapter; {error}. Then the same command") from error
