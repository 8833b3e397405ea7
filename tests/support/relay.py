"""A relay in front of a real server: it passes questions and answers on, but for the trouble that a test makes."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

BUSY, BROKEN = 503, 500  # statuses, said in the server's place
HANG = "hang"  # the server answers, and the answer is held back
CUT = "cut"  # half of the answer arrives, then the connection ends
DROP = "drop"  # the connection ends without an answer
PATIENCE = 120.0  # seconds for the server behind

Trouble = Callable[[str, dict[str, Any], int], int | str | None]


def no_trouble(path: str, body: dict[str, Any], times: int) -> None:
    """Everything is passed on."""


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on an answer that is held back is no news, and its traceback not that of the program."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Relay:
    """For the length of a `with`.

    Args:
        target: address of the server behind.
        trouble: what a POST meets instead of being passed on, or None: from its path, its body, and how often this very
            question has come in, counted from 1. It may do something itself before the question is passed on.

    Attributes:
        gone: whether every connection ends unanswered, as where nobody is.
        met: how often a question met which trouble.
        passed: paths of what was sent and passed on, in order.
    """

    def __init__(self, target: str, trouble: Trouble = no_trouble):
        self.target, self.trouble = target, trouble
        self.gone = False
        self.met: Counter[int | str] = Counter()
        self.passed: list[str] = []
        self._times: Counter[tuple[str, bytes]] = Counter()
        self._lock, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Relay:
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept, as the server itself keeps them

            def do_GET(self):
                relay._serve(self, "GET", b"")

            def do_POST(self):
                relay._serve(self, "POST", self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *arguments):
                pass

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def _serve(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        fault = self._fault(handler.path, method, body)
        if isinstance(fault, int):
            content = json.dumps({"error": {"message": "as the test says"}}).encode()
            return _send(handler, fault, "application/json", content)
        if fault == DROP:
            handler.close_connection = True
            return None
        status, kind, content = self._ask(handler, method, body)
        if fault == HANG:
            self._ended.wait()
        if fault in (HANG, CUT):
            content, handler.close_connection = content[: len(content) // 2], True
            return _send(handler, status, kind, content, 2 * len(content) + 1)
        return _send(handler, status, kind, content)

    def _fault(self, path: str, method: str, body: bytes) -> int | str | None:
        """What this question meets."""
        with self._lock:
            self._times[path, body] += 1
            fault = DROP if self.gone else None
            if fault is None and method == "POST":
                fault = self.trouble(path, json.loads(body), self._times[path, body])
            if fault is not None:
                self.met[fault] += 1
            elif method == "POST":
                self.passed.append(path)
            return fault

    def _ask(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> tuple[int, str, bytes]:
        """What the server behind says: status, kind of content, content."""
        place = urlsplit(self.target)
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
        names = ("Content-Type", "Authorization")
        headers = {name: handler.headers[name] for name in names if name in handler.headers}
        try:
            connection.request(method, handler.path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers.get("Content-Type", "text/plain"), reply.read()
        finally:
            connection.close()


def _send(
    handler: BaseHTTPRequestHandler, status: int, kind: str, content: bytes, said: int | None = None
) -> None:
    """Answer; `said`: how long it claims to be, where that is not how long it is."""
    try:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content) if said is None else said))
        handler.end_headers()
        handler.wfile.write(content)
    except OSError:  # whoever asked has gone
        handler.close_connection = True
