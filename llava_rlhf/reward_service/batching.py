"""Dynamic batching: rows of requests that wait together are scored in one forward, in the order in which they came."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data_utils.answers import AnswerItem
from llava_rlhf.reward_service.refusals import RefusedError

Scores = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Waiting:
    """A row that waits, and who waits for its score; that of a request that failed or was given up is cancelled.

    A row of several pictures takes room for as many.
    """

    item: AnswerItem
    reply: asyncio.Future[Mapping[str, Any]]
    room: int = 1


class Batcher:
    """One forward at a time, of up to `batch_size` rows. Lives in one event loop.

    Args:
        score: items → as many results; called in a thread of its own.
        batch_size: rows of a forward, at most; further pictures of a row count as rows, but one row always goes.
        wait_seconds: how long the first row of a forward waits for others.
        max_rows: admitted rows at a time, at most; pictures count likewise.
        room: of an item, how many rows it counts as.
    """

    def __init__(
        self,
        score: Callable[[Sequence[AnswerItem]], Scores],
        batch_size: int,
        wait_seconds: float,
        max_rows: int,
        room: Callable[[AnswerItem], int] = lambda _: 1,
    ):
        self._score, self._batch_size, self._wait, self._max_rows = score, batch_size, wait_seconds, max_rows
        self._room = room
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self.admitted = 0
        self.forwards = 0
        self.scored = 0

    @contextmanager
    def admission(self, rows: int) -> Iterator[None]:
        """Room for the rows of a request and their further pictures, from before these are opened until it is answered.

        Raises:
            RefusedError: 429, others take it all; asking again later helps.
        """
        if self.admitted + rows > self._max_rows:
            raise RefusedError(
                429,
                f"{self.admitted} of {self._max_rows} rows are at work (--max_queued_rows); ask again later",
            )
        self.admitted += rows
        try:
            yield
        finally:
            self.admitted -= rows

    async def scores(self, items: Sequence[AnswerItem]) -> Scores:
        """Scores of the rows of one request, in their order. Raises what scoring one of them raised."""
        loop = asyncio.get_running_loop()
        waiting = [Waiting(item, loop.create_future(), self._room(item)) for item in items]
        self._queue.extend(waiting)
        self._arrived.set()
        try:
            return await asyncio.gather(*(row.reply for row in waiting))
        finally:
            for row in waiting:  # those of a request that failed, or whose client is gone, need no forward
                row.reply.cancel()

    async def work(self) -> None:
        """Score whatever waits, until cancelled."""
        while True:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            await self._gather()
            batch = self._take()
            if batch:
                await self._run(batch)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _gather(self) -> None:
        """Wait until there are rows enough for a forward, or long enough."""
        until = time.monotonic() + self._wait
        while len(self._queue) < self._batch_size and (left := until - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except asyncio.TimeoutError:
                break

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        left = self._batch_size
        while self._queue and left > 0:
            row = self._queue[0]
            if not row.reply.done():
                if batch and row.room > left:
                    break
                batch.append(row)
                left -= row.room
            self._queue.popleft()
        return batch

    async def _run(self, batch: list[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        self.forwards += 1
        try:
            results = await loop.run_in_executor(self._thread, self._score, [row.item for row in batch])
        except Exception as error:  # whatever it is, those who wait have to hear of it, and others go on
            if len(batch) == 1:
                if not batch[0].reply.done():
                    batch[0].reply.set_exception(error)
                return
            for row in batch:  # one by one: a row that can't be scored takes no neighbour with it
                if not row.reply.done():
                    await self._run([row])
            return
        self.scored += len(batch)
        for row, result in zip(batch, results, strict=True):
            if not row.reply.done():
                row.reply.set_result(result)
