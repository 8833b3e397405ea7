"""Servers that share their GPUs with training: awake while they answer, asleep while it computes.

Asleep, a server keeps its weights in the machine's memory and nothing of its cache. It answers nothing then: a question
waits until it is woken. Not here: who says when, which is `VLLMEngine`, and before models are loaded `making`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import wait
from typing import Any

from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.engines.pool import ServerPool, rest_after
from llava_rlhf.runs.stopping import EngineError

# Level 1 keeps the weights. What is still under way was asked by somebody who does not wait for it any more.
SLEEP, WAKE, ASLEEP = "/sleep?level=1&mode=abort", "/wake_up", "/is_sleeping"
SERVER_INFO = "/server_info?config_format=json"
NOT_FOUND = 404
PATIENCE_SECONDS = 20.0  # with a server that can't be reached; one that is dead has nothing to give back
START_SO = "start it with SLEEP=True (scripts/serve_policy.sh)"

logger = logging.getLogger(__name__)


async def asleep(server: Server) -> bool | None:
    """Whether a server sleeps; None: it can't. Raises as `Server.get`."""
    try:
        told = await server.get(ASLEEP)
    except RefusedError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    return bool(told["is_sleeping"]) if isinstance(told, dict) and "is_sleeping" in told else None


async def wake(server: Server) -> None:
    """Wake a server that sleeps; it has the memory that it wants. Raises as `Server.post`."""
    if not await asleep(server):
        return
    try:
        await server.post(WAKE, {})
    except RefusedError as error:
        hint = "where it finds too little memory, start it with a lower GPU_MEMORY"
        raise RefusedError(f"{server.url}{WAKE}", error.status, f"{error.reason}; {hint}") from error


async def sleep_problem(server: Server) -> str | None:
    """Why a server can't share GPUs with training, if it can't. Raises as `Server.get`."""
    if await asleep(server) is None:
        return f" can't be sent to sleep: {START_SO}, or leave out --vllm_sleep"
    told: Any = await server.get(SERVER_INFO)
    try:
        settings = told["vllm_config"]
        able = settings["model_config"]["enable_sleep_mode"]
        on_cpu = settings["device_config"]["device"] == "cpu"
    except (TypeError, KeyError):
        logger.warning("%s does not tell whether it gives memory back when it sleeps", server.url)
        return None
    if on_cpu:
        logger.warning("%s runs on a processor: it says that it sleeps, and gives nothing back", server.url)
    elif not able:
        return f" gives no memory back when it sleeps (--enable-sleep-mode is missing): {START_SO}"
    return None


def wake_everywhere(pool: ServerPool) -> None:
    """Wake every server that can be reached."""
    done, _ = wait([pool.begin(wake(server)) for server in pool.servers], timeout=PATIENCE_SECONDS)
    for future in done:
        if (error := future.exception()) is not None:
            logger.warning("a server could not be woken: %s", error)


def sleep_everywhere(pool: ServerPool) -> None:
    """Send every server to sleep. Raises EngineError where one that is well can't be."""
    for future in [pool.begin(_send_to_sleep(server)) for server in pool.servers]:
        future.result()


async def _send_to_sleep(server: Server) -> None:
    failures, until = 0, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await server.post(SLEEP, {})
            return
        except (TryAgainError, RefusedError) as error:
            if isinstance(error, RefusedError) and await server.healthy():
                raise EngineError(
                    f"{server.url} can't be sent to sleep: {error}; {START_SO}, then the same command"
                ) from error
            failures += 1
            rest = rest_after(failures)
            if time.monotonic() + rest >= until:
                logger.warning("could not be sent to sleep: %s. If it still runs, it keeps its memory", error)
                return
            await asyncio.sleep(rest)
