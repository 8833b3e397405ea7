"""A real vLLM server for tests, started by scripts/serve_policy.sh in a process group of its own.

The group is ended whole: by `stop` or `kill`, and by a watcher beside it once the tests are gone, however they went.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY_BASE = ROOT / "scripts" / "tiny" / "base"
START_SECONDS = 600  # 25 to 70 on an idle machine; a server that ends is noticed at once
TAIL = 40  # lines of the log that a failure shows
# Of the tiny base; rows of training in float32 are compared to 1e-4.
TINY = {
    "BASE_MODEL": str(TINY_BASE),
    "DTYPE": "float32",
    "LORA_RANK": "32",
    "MAX_NUM_SEQS": "64",
    "IMAGES_PER_PROMPT": "2",
    "GPU_MEMORY": "0.1",
}
# Ends a group once its owner is gone; two processes, so that a test runner that is killed has it ended too.
WATCHER = """
import os, signal, sys, time
owner, group = map(int, sys.argv[1:])
def there(send, number):
    try: send(number, 0)
    except ProcessLookupError: return False
    return True
while there(os.kill, owner) and there(os.killpg, group): time.sleep(0.5)
if there(os.killpg, group): os.killpg(group, signal.SIGKILL)
"""


class ServerDied(AssertionError):
    """The server did not come up, or is gone; the message ends with its log."""


def vllm_environment() -> Path:
    """The environment of scripts/setup_vllm.sh; skips the test where there is none."""
    environment = Path(os.environ.get("VLLM_VENV") or ROOT / ".venv-vllm")
    if not (environment / "installed-vllm.txt").is_file():
        pytest.skip(
            f"no vLLM in {environment}: VLLM_VENV={environment} bash scripts/setup_vllm.sh installs it"
        )
    return environment


def free_port() -> int:
    """A port of this machine on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class VLLMServer:
    """A server, and the way to start it again on the same port.

    Attributes:
        variables: of scripts/serve_policy.sh.
        folder: where its log is written.
        group: its process group; 0 before it was started.
    """

    variables: Mapping[str, str]
    folder: Path
    group: int = 0

    @property
    def url(self) -> str:
        host = self.variables.get("HOST", "0.0.0.0")
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{self.variables['PORT']}"

    @property
    def log(self) -> Path:
        return self.folder / f"vllm-{self.variables['PORT']}.log"

    def start(self, owner: int | None = None) -> VLLMServer:
        """Start it and wait until it answers.

        Args:
            owner: process with which it ends; None: this one.

        Raises:
            ServerDied: it ended, or did not answer in `START_SECONDS`.
        """
        environment = {**os.environ, "PYTHON": sys.executable, **self.variables}
        with self.log.open("a") as log:
            process = subprocess.Popen(
                ["bash", str(ROOT / "scripts" / "serve_policy.sh")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.group = process.pid
        words = [sys.executable, "-S", "-c", WATCHER, str(owner or os.getpid()), str(self.group)]
        subprocess.Popen(words, start_new_session=True)
        until = time.monotonic() + START_SECONDS
        while not self.healthy():
            ended = process.poll() is not None
            if ended or time.monotonic() > until:
                self.kill()
                raise ServerDied(f"{'ended' if ended else 'no answer'}; the end of its log:\n{self.tail()}")
            time.sleep(0.5)
        return self

    def healthy(self) -> bool:
        """Whether it answers at /health."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as reply:
            return reply.status == 200
        return False

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL:])

    def kill(self) -> None:
        """End it as a crash does: SIGKILL to the whole group."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as a user does; what is left after some seconds is killed."""
        self._end(signal.SIGTERM)
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        """Send a signal to the group and wait until it is gone, for ten seconds."""
        until = time.monotonic() + 10
        with suppress(ProcessLookupError):
            os.killpg(self.group, number)
            while time.monotonic() < until:
                with suppress(ChildProcessError):
                    os.waitpid(self.group, os.WNOHANG)
                os.killpg(self.group, 0)
                time.sleep(0.1)

    def call(self, path: str, body: Any = None) -> tuple[int, Any]:
        """POST a body (GET without one): status, and the answer, read where it is JSON. Statuses of errors are returned."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        if key := self.variables.get("VLLM_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                status, text = reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        with suppress(ValueError):
            return status, json.loads(text)
        return status, text


def new_server(folder: Path, **variables: str) -> VLLMServer:
    """A server of its own for a test, not started; `TINY` where `variables` say nothing else."""
    environment = str(vllm_environment())
    return VLLMServer({**TINY, "VLLM_VENV": environment, "PORT": str(free_port()), **variables}, folder)
