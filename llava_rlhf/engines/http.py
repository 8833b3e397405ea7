"""One vLLM server, over HTTP: what it said, or which kind of failure that was."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import httpx

from llava_rlhf.engines.serving import KEY
from llava_rlhf.runs.stopping import EngineError

CONNECT_SECONDS = 10.0
BUSY = (408, 425, 429, 502, 503, 504)  # it, or what stands before it, says that another moment may be better
SHOWN = 500  # characters of what a server says


class TryAgainError(Exception):
    """No answer, for a reason that may pass.

    Attributes:
        server_is_ill: whether other questions would fare no better there: it can't be reached, hangs, or is busy.
    """

    def __init__(self, message: str, server_is_ill: bool):
        super().__init__(message)
        self.server_is_ill = server_is_ill


class RefusedError(Exception):
    """The server understood and refused (HTTP 4xx, or 5xx where a request itself may be the reason).

    Attributes:
        status: of HTTP.
        reason: in the server's words.
    """

    def __init__(self, place: str, status: int, reason: str):
        super().__init__(f"{place}: HTTP {status}, {reason}")
        self.status, self.reason = status, reason


class Server:
    """A server's address, and connections to it.

    Args:
        url: scheme, host and port.
        key: that it asks for, or None.
        timeout: seconds for a request.
        connections: at once, at most.
        sleeps: whether it may be asleep, and is woken before it is given anything (`sleep`).
    """

    def __init__(self, url: str, key: str | None, timeout: float, connections: int = 4, sleeps: bool = False):
        self.url, self.sleeps = url, sleeps
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout), pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # proxies are for the world outside
        )

    async def get(self, path: str) -> Any:
        """What stands there, read as JSON where it is. Raises as `post`."""
        return await self._call("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send `body`; what comes back, read as JSON where it is.

        Raises:
            TryAgainError: no connection, no answer in time, or a server that says it is busy.
            RefusedError: any other status than success.
            EngineError: it asks for another key.
        """
        return await self._call("POST", path, body)

    async def healthy(self) -> bool:
        """Whether the engine behind the address lives."""
        try:
            await self.get("/health")
        except (TryAgainError, RefusedError):
            return False
        return True

    async def close(self) -> None:
        """Give its connections back."""
        await self._client.aclose()

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        place = f"{self.url}{path}"
        try:
            reply = await self._client.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise TryAgainError(f"{place}: no answer in time ({type(error).__name__})", True) from error
        except httpx.RequestError as error:  # no connection, one that broke, or an answer that can't be read
            raise TryAgainError(f"{place}: {str(error) or type(error).__name__}", True) from error
        if reply.status_code in (401, 403):
            raise EngineError(
                f"{place} asks for another key (HTTP {reply.status_code}): set {KEY} to the one it was started with"
            )
        if reply.status_code in BUSY:
            raise TryAgainError(f"{place}: HTTP {reply.status_code}, {_reason(reply.text)}", True)
        if not reply.is_success:
            raise RefusedError(place, reply.status_code, _reason(reply.text))
        with suppress(ValueError):
            return reply.json()
        return reply.text


def _reason(text: str) -> str:
    """What the server says is wrong, without what stands around it."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):  # of what stands before a server, too
        told = json.loads(text)
        text = str(told["error"]["message"] if "error" in told else told.get("detail", text))
    return " ".join(text.split())[:SHOWN] or "without a reason"
