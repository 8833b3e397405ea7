"""A judge of claims that knows nothing but words, behind an endpoint as real judges are: right in the tiny world alone.

Its captions name all there is, so that a thing is there exactly if the notes say so. Of a sentence that names several things it
says Yes with the share for which that holds, as a model would that is of two minds.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llava_rlhf.fact_rewards.assertions import with_stances
from llava_rlhf.fact_rewards.object_words import SHAPES_WORDS, ObjectWords

NAME = "words"
_WORDS = ObjectWords(SHAPES_WORDS)


@cache
def chance_of_yes(text: str) -> float:
    """The answer to a question of `llava_rlhf.fact_rewards.claims`, as a probability; 0 where its statement names nothing."""
    notes, _, statement = text.partition("\nAnswer: ")
    if not statement:
        notes, _, statement = text.partition("\n\nStatement: ")
    notes = notes.partition("\n\nQuestion: ")[0]
    statement, _, asked = statement.partition("\n\n")
    said = _said(statement)
    if not said:
        return 0.0
    there = {name for name, is_there in _said(notes) if is_there}
    right = sum(is_there == (name in there) for name, is_there in said) / len(said)
    return 1 - right if "is false" in asked else right


def _said(text: str) -> set[tuple[str, bool]]:
    """Things of a text, and whether it says that they are there."""
    found = with_stances(text, _WORDS.found(text))
    return {(one.name, one.stance == "asserted") for one in found if one.stance != "open"}


@contextmanager
def word_judge() -> Iterator[str]:
    """Its address, up to and with /v1, while it answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_POST(self) -> None:
        """A chat completion of one token, with its probability."""
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        chance = chance_of_yes(text)
        both = [
            {"token": word, "logprob": math.log(share), "bytes": None}
            for word, share in (("Yes", chance), ("No", 1 - chance))
            if share
        ]
        first = {**max(both, key=lambda one: one["logprob"]), "top_logprobs": both}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": first["token"]},
            "finish_reason": "length",
            "logprobs": {"content": [first]},
        }
        usage = {
            "prompt_tokens": len(text.split()),
            "completion_tokens": 1,
            "total_tokens": len(text.split()) + 1,
        }
        reply = {
            "id": "0",
            "object": "chat.completion",
            "created": 0,
            "model": NAME,
            "choices": [choice],
            "usage": usage,
        }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""
