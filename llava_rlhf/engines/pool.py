"""Several servers that share questions: the one with the least to do is asked, a dead one's questions go to others.

A question is asked until a time limit: each failure lets the server, or the question, rest for twice as long as the last.
A server that has failed is asked one question, and more once that is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.runs.stopping import EngineError

T = TypeVar("T")

FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds
DOUBLINGS = 16  # of a rest, at most: a server that stays away for days is no number too large
REFUSALS = 4  # of one question by servers that are well: then the question is the reason


class _Place:
    """A server, the questions that it has, and until when it rests."""

    def __init__(self, server: Server):
        self.server = server
        self.busy = 0
        self.failures = 0
        self.rests_until = 0.0

    def has_room(self, in_flight: int) -> bool:
        """Whether it is asked one more: of a server that has failed, whether it answers is not known."""
        return self.busy < (1 if self.failures else in_flight)

    def answered(self) -> None:
        self.failures = 0

    def failed(self, known: int) -> None:
        """A question that was begun after `known` failures has failed. Questions that are under way together fail together,
        and that is one failure."""
        if self.failures == known:
            self.failures += 1
            self.rests_until = time.monotonic() + rest_after(self.failures)


def rest_after(failures: int) -> float:
    """Seconds until something is tried again that has failed so many times in a row."""
    return min(FIRST_REST * 2 ** min(failures - 1, DOUBLINGS), LONGEST_REST)


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

    @property
    def sleeps(self) -> bool:
        """Whether servers sleep while nobody asks them."""
        return any(server.sleeps for server in self.servers)

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
        """Ask servers one after the other until one answers; one that has not is asked again after the others.

        Args:
            question: asks one server.
            until: on the clock of `time.monotonic`.

        Raises:
            EngineError: nobody has answered by then, or several times a server that is well refused.
        """
        refused, last, tried = 0, "", Counter[_Place]()
        while True:
            place = await self._take(until, last, tried)
            known = place.failures
            try:
                answer = await asyncio.wait_for(question(place.server), until - time.monotonic())
                place.answered()
                return answer
            except TryAgainError as error:
                last = str(error)
                if error.server_is_ill:
                    place.failed(known)
                else:
                    refused += 1
            except RefusedError as error:
                last = str(error)
                if error.status < 500:
                    raise EngineError(f"a question was refused: {last}") from error
                if await place.server.healthy():
                    refused += 1
                else:  # its engine has died, and it says so to everybody until it ends
                    place.failed(known)
            except asyncio.TimeoutError:
                # Cut off by the limit: an earlier failure says more of why it came to that.
                last = last or f"{place.server.url}: no answer in time"
            finally:
                place.busy -= 1
                async with self._freed:
                    # Of a server that is back, all places are free again.
                    self._freed.notify(self._in_flight if known and not place.failures else 1)
            tried[place] += 1
            if refused >= REFUSALS:
                raise EngineError(f"a question was refused {refused} times, the last time: {last}")
            if refused:
                await asyncio.sleep(max(0.0, min(rest_after(refused), until - time.monotonic())))

    async def _take(self, until: float, last: str, tried: Counter[_Place]) -> _Place:
        """A place at the server that has the least to do, of those that a question has `tried` least often.

        Raises EngineError where there is none until then.
        """
        while True:
            async with self._freed:
                now = time.monotonic()
                if now >= until:
                    reason = last or "every server had its hands full"
                    raise EngineError(
                        f"no server answered in time (--vllm_step_timeout); the last reason: {reason}. Look at the servers' logs"
                    )
                awake = [place for place in self._places if place.rests_until <= now]
                fewest = min((tried[place] for place in awake), default=0)
                free = [
                    place for place in awake if tried[place] == fewest and place.has_room(self._in_flight)
                ]
                if free:
                    place = min(free, key=lambda place: place.busy)
                    place.busy += 1
                    return place
                if not tried:
                    resting = [place.rests_until for place in self._places if place.rests_until > now]
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._freed.wait(), min([until, *resting]) - now)
                    continue
            # Not among those who wait: a place that is freed wakes one of them, who must be able to take any.
            await asyncio.sleep(max(0.0, min(FIRST_REST, until - now)))
