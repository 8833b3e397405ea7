"""The addresses of the reward service (docs/serve_reward.md), each a thin layer over `ScoringDesk.score`."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data_utils.answers import AnswerItem
from llava_rlhf.engines.in_server.require_key import RequireKey
from llava_rlhf.reward_service import wire_formats
from llava_rlhf.reward_service.arguments import LimitArguments
from llava_rlhf.reward_service.batching import Batcher, Scores
from llava_rlhf.reward_service.intake import Intake
from llava_rlhf.reward_service.pictures import RequestPictures, keep_sent
from llava_rlhf.reward_service.refusals import RefusedError
from llava_rlhf.reward_service.scoring import RowRules, room_of

VERSION = "v1"
READERS = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringDesk:
    """What stands behind all addresses.

    Attributes:
        rules: how rows are read.
        batcher: where they wait.
        folders: image folders.
        limits: of a request.
        description: of the reward model, for /v1/model.
        answer_ends: stop tokens of policies, as text.
        readers: how many requests are read at a time; each thread keeps memory of its own.
    """

    rules: RowRules
    batcher: Batcher
    folders: Sequence[Path]
    limits: LimitArguments
    description: Mapping[str, Any]
    answer_ends: Sequence[str]
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(READERS))

    async def score(self, rows: Any, shared: Any = None, own: Sequence[Any] | None = None) -> Scores:
        """Scores of the rows of one request, all or none.

        Args:
            rows: as in answers files.
            shared: pictures that came with the request, for all rows.
            own: or those of each row.

        Raises:
            RefusedError: for whatever a request can get wrong, and where others take all room.
        """
        if not isinstance(rows, list) or not rows:
            raise RefusedError(422, "rows: must be a list of one row or more")
        room = sum(map(room_of, rows))
        if room > self.limits.max_rows:
            with_pictures = f", {room} with one for each further picture" if room > len(rows) else ""
            raise RefusedError(
                413,
                f"{len(rows)} rows{with_pictures}, at most {self.limits.max_rows} are accepted in a request (--max_rows); "
                "send them in parts",
            )
        with self.batcher.admission(room):
            items = await to_thread.run_sync(self._items, rows, shared, own, limiter=self.readers)
            return await self.batcher.scores(items)

    def _items(self, rows: list[Any], shared: Any, own: Sequence[Any] | None) -> list[AnswerItem]:
        # Files, as images are opened in one place and that opens files; gone before anything waits.
        with tempfile.TemporaryDirectory(prefix="llava-rlhf-reward-") as folder:
            known = [
                RequestPictures(
                    self.folders,
                    keep_sent(sent, Path(folder, str(number))),
                    self.limits.max_pixels_a_picture,
                )
                for number, sent in enumerate([shared] if own is None else own)
            ]
            return self.rules.items(rows, known * len(rows) if own is None else known)


def reward_application(desk: ScoringDesk, key: str | None, hosts: Sequence[str]) -> Starlette:
    """The service as an ASGI application.

    Args:
        desk: scores.
        key: that requests bring as `Authorization: Bearer KEY`, or None; /health asks for none.
        hosts: names under which it may be called; a page elsewhere could make its own name point here.
    """
    intake = Intake(desk.limits.max_request_bytes, desk.limits.max_queued_bytes)

    @asynccontextmanager
    async def working(_: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(desk.batcher.work())
        try:
            yield
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker
            desk.batcher.close()

    async def health(_: Request) -> JSONResponse:
        batcher = desk.batcher
        return JSONResponse(
            {
                "status": "ok",
                "rows_at_work": batcher.admitted,
                "bytes_at_work": intake.held,
                "rows_scored": batcher.scored,
                "forwards": batcher.forwards,
            }
        )

    async def model(_: Request) -> JSONResponse:
        return JSONResponse(dict(desk.description))

    routes = [Route("/health", health), Route(f"/{VERSION}/model", model)]
    for path, answer in wire_formats.ADDRESSES.items():
        routes.append(Route(path, _endpoint(desk, intake, answer), methods=["POST"]))
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
    middleware += [Middleware(RequireKey, key=key)] if key else []
    return Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=working,
        exception_handlers={HTTPException: _told},
    )


def _endpoint(
    desk: ScoringDesk,
    intake: Intake,
    answer: Callable[[ScoringDesk, dict[str, Any]], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def told(content: dict[str, Any]) -> Response:
        return JSONResponse(await answer(desk, content))

    async def endpoint(request: Request) -> Response:
        try:
            return await intake.answered(request, told) or _gone()
        except RefusedError as error:
            return _error(error.status, str(error))
        except ClientDisconnect:
            return _gone()
        except Exception as error:  # of this request alone; the service goes on
            logger.exception("a request failed")
            return _error(500, f"scoring failed ({type(error).__name__}); the service's log says more")

    return endpoint


def _gone() -> JSONResponse:
    """For nobody: an application has to answer."""
    return _error(400, "the client is gone")


def _error(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 429 else {}
    return JSONResponse({"error": {"message": message}}, status, headers)


async def _told(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)
