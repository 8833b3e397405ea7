"""A chat-completions server on this machine that answers, is busy, breaks or talks nonsense as a test says."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(
    text: str | None, prompt_tokens: int, completion_tokens: int, finish_reason: str = "stop"
) -> dict[str, Any]:
    """A chat completion, as the protocol has it."""
    message = {"role": "assistant", "content": text}
    total = prompt_tokens + completion_tokens
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": total,
        },
    }


def with_tokens(text: str, **chances: float) -> dict[str, Any]:
    """A completion of one token, with the probabilities of what it could have been, the likeliest first."""
    tokens = [
        {"token": token, "logprob": math.log(chance), "bytes": None, "top_logprobs": []}
        for token, chance in chances.items()
    ]
    found = completion(text, 5, 1, "length")
    found["choices"][0]["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}], "refusal": None}
    return found


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, images left out."""
    content = message["content"]
    return (
        content if isinstance(content, str) else "".join(part["text"] for part in content if "text" in part)
    )


class JudgeServer:
    """A server for the length of a `with`.

    Args:
        answer: user text → reply text, or a whole completion; by default an echo.

    Attributes:
        url: what `Endpoint` takes.
        script: what the next requests get, first to last: "ok", a status code, "drop" (connection closed), "html",
            "no choices", "not json", or a whole completion; then everything is "ok".
        barrier: each request waits there.
        requests, keys: bodies and Authorization headers that came in.
    """

    def __init__(self, answer: Callable[[str], str | dict[str, Any]] = lambda text: f"echo: {text}"):
        self.answer = answer
        self.script: list[Any] = []
        self.retry_after_ms = 20
        self.barrier: threading.Barrier | None = None
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"judge": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_for(self, body: dict[str, Any], key: str | None) -> Any:
        """Record a request; what it gets."""
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            step = self.script.pop(0) if self.script else "ok"
        if self.barrier is not None:
            self.barrier.wait()
        if step != "ok":
            return step
        prompt = " ".join(text_of(message) for message in body["messages"])
        reply = self.answer(text_of(body["messages"][-1]))
        if not isinstance(reply, str):
            return reply
        return completion(reply, len(prompt.split()), len(reply.split()))


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": f"no such path {self.path}"}})
        step = self.judge.next_for(body, self.headers.get("Authorization"))
        if step == "drop":
            return self.close_connection_now()
        if isinstance(step, int):
            return self._send(step, {"error": {"message": f"status {step} on purpose"}})
        if step == "html":
            return self._send(200, "<html>a proxy's page</html>", "text/html")
        if step == "not json":
            return self._send(200, "{broken", "application/json")
        if step == "no choices":
            return self._send(200, {**completion("", 0, 0), "choices": []})
        return self._send(200, step)

    def close_connection_now(self) -> None:
        """Hang up without a word."""
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status != 200:
            self.send_header("retry-after-ms", str(self.judge.retry_after_ms))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""
