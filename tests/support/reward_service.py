"""The reward service for tests: in this process, or as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from llava_rlhf import serve_reward
from tests.support.tiny_data import TinyData, command_line
from tests.support.vllm_server import free_port

ROOT = Path(__file__).resolve().parents[2]


def service_command(data: TinyData, reward: Path, **changes: Any) -> list[str]:
    """Command line of a service that knows the images and captions of `data`; `changes` replace or add flags."""
    settings = {
        "reward_model": reward,
        "image_folders": [data.images],
        "image_to_caption_file": data.captions,
        "port": free_port(),
        "seed": 3,
        "use_cpu": True,
    }
    return command_line(**{**settings, **changes})


@contextmanager
def service_here(argv: list[str]) -> Iterator[TestClient]:
    """A client of the service in this process, between its start and its end; several threads may use it."""
    application = serve_reward.application(serve_reward.prepare(argv))
    with TestClient(application, base_url="http://127.0.0.1") as client:
        yield client


@contextmanager
def service_listening(argv: list[str]) -> Iterator[str]:
    """The address of the service in this process, behind a real port."""
    server = serve_reward.server(serve_reward.prepare(argv))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def service_process(argv: list[str], log: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The service as a process of its own: its address, and the process; ended with SIGTERM."""
    port = argv[argv.index("--port") + 1]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "llava_rlhf.serve_reward", *argv],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 120
        while not answers(url):
            assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


def health(url: str) -> dict[str, Any]:
    """What the service says of its work."""
    with urllib.request.urlopen(f"{url}/health", timeout=20) as reply:
        return json.load(reply)


def answers(url: str) -> bool:
    """Whether a service is healthy there."""
    with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
        return reply.status == 200
    return False
