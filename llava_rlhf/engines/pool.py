"""Several servers that share questions: the one with the least to do is asked, a dead one's questions go to others.

A question is asked until a time limit: each failure lets the server, or the question, rest for twice as long as the last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.runs.stopping import EngineError

T = TypeVar("T")

FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds
REFUSALS = 4  # of one question by servers that are well: then the question is the reason


class _Place:
    """A server, the questions that it has, and until when it rests."""

    def __init__(self, server: Server):
        self.server = server
        self.busy = 0
        self.failures = 0
        self.rests_until = 0.0

    def answered(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        self.failures += 1
        self.rests_until = time.monotonic() + rest_after(self.failures)


def rest_after(failures: int) -> float:
    """Seconds until something is tried again that has failed so many times in a row."""
    return min(FIRST_REST * 2 ** (failures - 1), LONGEST_REST)


class ServerPool:
    """Servers, and the thread in which they are asked.

    Args:
        servers: at least one.
        in_flight: questions at one server at once, at most.
    """

    def __init__(self, servers: Sequence[Server], in_flight: int):
        self.servers = list(servers)
        self._places = [_Place(server) for server in servers]
        self._in_flight = in_flight
        self._loop = asyncio.new_event_loop()
        self._freed = asyncio.Condition()
        # Ends with the program: what is under way then interests nobody.
        Thread(target=self._loop.run_forever, name="rollout engine", daemon=True).start()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the pool's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End what is under way and close all connections."""

        async def end() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            for server in self.servers:
                await server.close()

        self.begin(end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def ask(self, question: Callable[[Server], Awaitable[T]], until: float) -> T:
        """Ask servers one after the other until one answers.

        Args:
            question: asks one server.
            until: on the clock of `time.monotonic`.

        Raises:
            EngineError: nobody has answered by then, or several times a server that is well refused.
        """
        refused, last = 0, ""
        while True:
            place = await self._take(until, last)
            try:
                answer = await asyncio.wait_for(question(place.server), until - time.monotonic())
                place.answered()
                return answer
            except TryAgainError as error:
                last = str(error)
                if error.server_is_ill:
                    place.failed()
                else:
                    refused += 1
            except RefusedError as error:
                last = str(error)
                if error.status < 500:
                    raise EngineError(f"a question was refused: {last}") from error
                if await place.server.healthy():
                    refused += 1
                else:  # its engine has died, and it says so to everybody until it ends
                    place.failed()
            except asyncio.TimeoutError:
                # Cut off by the limit: an earlier failure says more of why it came to that.
                last = last or f"{place.server.url}: no answer in time"
            finally:
                place.busy -= 1
                async with self._freed:
                    self._freed.notify()
            if refused >= REFUSALS:
                raise EngineError(f"a question was refused {refused} times, the last time: {last}")
            if refused:
                await asyncio.sleep(max(0.0, min(rest_after(refused), until - time.monotonic())))

    async def _take(self, until: float, last: str) -> _Place:
        """A place at the server that has the least to do. Raises EngineError where there is none until then."""
        async with self._freed:
            while True:
                now = time.monotonic()
                if now >= until:
                    reason = last or "every server had its hands full"
                    raise EngineError(
                        f"no server answered in time (--vllm_step_timeout); the last reason: {reason}. Look at the servers' logs"
                    )
                free = [place for place in self._places if place.busy < self._in_flight]
                awake = [place for place in free if place.rests_until <= now]
                if awake:
                    place = min(awake, key=lambda place: place.busy)
                    place.busy += 1
                    return place
                wakes = min([until, *(place.rests_until for place in free)])
                try:
                    await asyncio.wait_for(self._freed.wait(), wakes - now)
                except asyncio.TimeoutError:
                    continue
