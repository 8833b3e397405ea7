"""A server on this machine that talks as vLLM does, and fails as a test says. It has no model: answers count up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llava_rlhf.engines.sleep import ASLEEP, SERVER_INFO, SLEEP, WAKE

VOCABULARY = 60
CONFIG = {"model_config": {"enable_sleep_mode": True}, "device_config": {"device": "cuda"}}
SLEEPING = (SLEEP, WAKE, ASLEEP, SERVER_INFO)


def reply_to(body: dict[str, Any], expanded: list[int]) -> dict[str, Any]:
    """A reply of /inference/v1/generate: as many tokens as may be, from the seed on, none of them banned or a stop token."""
    sampling = body["sampling_params"]
    never = {*map(int, sampling["logit_bias"]), *sampling["stop_token_ids"]}
    free = [index for index in range(5, VOCABULARY) if index not in never]
    count, seed = sampling["max_tokens"], sampling["seed"]
    ids = [free[(seed + place) % len(free)] for place in range(count)]
    entries = [{"token_id": index, "logprob": -0.5, "rank": 1, "top_logprobs": []} for index in ids]
    choice = {"index": 0, "finish_reason": "length", "token_ids": ids, "logprobs": {"content": entries}}
    return {"model": body["model"], "prompt_token_ids": expanded, "choices": [choice]}


class FakeVLLM:
    """A server for the length of a `with`.

    Args:
        root: folder of the base.
        widen: prompt with one placeholder a picture → what was read.

    Attributes:
        script: what the next questions get, first to last: a status, "hang", "drop" (connection closed), a callable that
            changes the reply; then every answer is fine.
        said: path → what it says instead of what it would, (status, content); of a list, one after the other, then what it would.
        questions: bodies of questions that came in.
        loaded: adapter → folder.
        at_once: the most questions that were under way together.
        asleep: whether it sleeps, in which it answers no question; None: it can't.
        posted: paths that something was sent to, in order.
    """

    def __init__(self, root: str = "/no/base", widen: Callable[[list[int]], list[int]] = list):
        self.root, self.widen = root, widen
        self.script: list[Any] = []
        self.said: dict[str, tuple[int, Any]] = {}
        self.questions: list[dict[str, Any]] = []
        self.loaded: dict[str, str] = {}
        self.pause = 0.0
        self.asleep: bool | None = None
        self.posted: list[str] = []
        self.at_once = self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> FakeVLLM:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                fake._serve(self, None)

            def do_POST(self):
                fake._serve(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def _serve(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> None:
        path = handler.path
        if body is not None:
            self.posted.append(path)
        said = self.said.get(path)
        if said:
            return _send(handler, *(said.pop(0) if isinstance(said, list) else said))
        if path == "/inference/v1/generate":
            return self._generate(handler, body)
        if path.endswith("_lora_adapter"):
            if path.startswith("/v1/load"):
                self.loaded[body["lora_name"]] = body["lora_path"]
            else:
                self.loaded.pop(body["lora_name"], None)
            return _send(handler, 200, "done")
        if path in SLEEPING:
            return self._sleep(handler, path)
        cards = [{"id": "base", "root": self.root, "parent": None, "max_model_len": 400}]
        cards += [{"id": name, "root": folder, "parent": "base"} for name, folder in self.loaded.items()]
        return _send(
            handler, 200, {"/version": {"version": "0.32.0"}, "/v1/models": {"data": cards}}.get(path, "")
        )

    def _sleep(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        if self.asleep is None:
            return _send(handler, 404, {"detail": "Not Found"})
        if path in (SLEEP, WAKE):
            self.asleep = path == SLEEP
        return _send(handler, 200, {"is_sleeping": self.asleep, "vllm_config": CONFIG})

    def _generate(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.questions.append(body)
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            step = self.script.pop(0) if self.script else None
        while self.asleep:
            time.sleep(0.01)
        time.sleep(30 if step == "hang" else self.pause)
        with self._lock:
            self._now -= 1
        if step == "drop":
            handler.close_connection = True
            return None
        if isinstance(step, int):
            return _send(handler, step, {"error": {"message": "as the test says"}})
        reply = reply_to(body, self.widen(body["token_ids"]))
        return _send(handler, 200, step(reply) if callable(step) else reply)


def _send(handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
    data = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
