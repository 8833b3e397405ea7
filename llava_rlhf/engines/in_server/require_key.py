"""Ask for the key at every path. vLLM itself asks at /v1 and /inference, not where else adapters are loaded or text is written.

`/adapters`, `/invocations` and `/sleep` of vLLM 0.32 answer without one (vllm/entrypoints/serve/middleware/authenticate.py).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
OPEN = ("/health",)  # for who waits until the server is up


class RequireKey:
    """ASGI middleware (`--middleware require_key.RequireKey`): status 401 without `Authorization: Bearer KEY`.

    Args:
        app: behind it.
        key: None: the one in VLLM_API_KEY, as vLLM passes its middleware no arguments.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], key: str | None = None):
        self._app = app
        self._wanted = f"Bearer {key or os.environ['VLLM_API_KEY']}".encode()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Pass a request on, or answer it; start and end of the server are no requests."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or scope["path"] in OPEN or hmac.compare_digest(given, self._wanted):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"the key is missing or wrong"})
        else:
            await send({"type": "websocket.close", "code": 1008})
