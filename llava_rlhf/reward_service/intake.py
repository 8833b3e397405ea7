"""Bodies of requests: let in before they are read, as large as they say or turn out to be, and forgotten with who sent them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import create_task_group, move_on_after
from starlette.requests import Request
from starlette.responses import Response

from llava_rlhf.reward_service.refusals import RefusedError

READ_SECONDS = 60.0  # a body that comes slower holds room that others need


class Intake:
    """Room for the bodies of all requests at a time. Lives in one event loop.

    Args:
        most: bytes of one body.
        room: bytes of all that are read, wait or are scored.
    """

    def __init__(self, most: int, room: int):
        self._most, self._room = most, room
        self.held = 0

    async def answered(
        self, request: Request, answer: Callable[[dict[str, Any]], Awaitable[Response]]
    ) -> Response | None:
        """What `answer` makes of the JSON object of a request, or None where its client is gone before that: then it is cancelled.

        Raises:
            RefusedError: 400, 408, 413, 415, 422 or 429, for a body that can't be used or has no room.
            ClientDisconnect: the client went while it sent.
        """
        body = _Body(self)
        try:
            content = await body.read(request)
            return await _unless_gone(request, lambda: answer(content))
        finally:
            self.held -= body.size

    def take(self, size: int, more: int) -> None:
        """Room for `more` bytes of a body that has `size`. Raises RefusedError."""
        if size + more > self._most:
            raise RefusedError(
                413,
                f"the request has more than {self._most} bytes (--max_request_bytes); send fewer rows or smaller pictures",
            )
        if self.held + more > self._room:
            raise RefusedError(
                429,
                f"requests of {self.held} of {self._room} bytes are at work (--max_queued_bytes); ask again later",
            )
        self.held += more


class _Body:
    """One body; `size` is the room that it holds."""

    def __init__(self, intake: Intake):
        self._intake = intake
        self.size = 0

    async def read(self, request: Request) -> dict[str, Any]:
        """The JSON object in it. Raises as `Intake.answered`."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a page in a browser could send another kind from anywhere, unasked
            raise RefusedError(415, f"Content-Type {kind or 'missing'}: must be application/json")
        told = request.headers.get("content-length", "")
        self._grow(int(told) if told.isdecimal() else 0)
        content = bytearray()
        with move_on_after(READ_SECONDS) as reading:
            async for part in request.stream():
                content += part
                self._grow(len(content))
        if reading.cancelled_caught:
            raise RefusedError(
                408, f"the request did not come whole within {READ_SECONDS:g} s; send it again"
            )
        return _json_object(content)

    def _grow(self, size: int) -> None:
        """Hold room for as many bytes in all."""
        more = max(size - self.size, 0)
        self._intake.take(self.size, more)
        self.size += more


def _json_object(body: bytearray) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the request is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise RefusedError(422, "the request must be a JSON object")
    return content


async def _unless_gone(request: Request, answer: Callable[[], Awaitable[Response]]) -> Response | None:
    """What `answer` says; None, and it is cancelled, where the client of a request that was read goes first."""
    found: list[Response | Exception] = []
    async with create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            found.append(await answer())
        except Exception as error:  # not from here, where the group would wrap it
            found.append(error)
        group.cancel_scope.cancel()
    if found and isinstance(found[0], Exception):
        raise found[0]
    return found[0] if found else None
