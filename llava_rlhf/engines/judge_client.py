"""A judge behind any OpenAI-compatible chat endpoint: text and images in, text out, asked and paid for once.

Retries with back-off are the `openai` client's own. Every reply is on disk before it is used, so that a run that was
stopped, or that is repeated, asks only what is new. Left out on purpose: what a verdict looks like (see who asks).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tqdm import tqdm

from data_utils.images import image_data_url
from llava_rlhf.runs.durable_lines import DurableLines

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "no-key"  # servers on one's own machine look at none, but the protocol wants a word


class JudgeError(RuntimeError):
    """The judge gave no reply, after all retries."""


@dataclass(frozen=True)
class Question:
    """One request to a judge.

    Attributes:
        text: the user message.
        images: image files, shown before the text, in this order.
        system: the system message, None for none.
        repeat: asks the same again: each number has a reply of its own.
    """

    text: str
    images: tuple[Path, ...] = ()
    system: str | None = None
    repeat: int = 0


@dataclass(frozen=True)
class Reply:
    """What a judge said: its text ("" where it said nothing), tokens as the server counts them (0: it does not).

    `first_token`: token → log-probability, of the likeliest that the text could have begun with; None where nobody asked for
    them (`logprobs`) or the server does not say.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    first_token: Mapping[str, float] | None = None


@dataclass
class Usage:
    """What was asked so far: `requests` sent, `from_cache` replies read, and tokens of the requests sent."""

    requests: int = 0
    from_cache: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Judge(Protocol):
    """Whoever answers questions: an endpoint or a local model.

    Attributes:
        name: of the model.
        settings: what else its replies depend on.
    """

    name: str
    settings: Mapping[str, Any]

    def ask_all(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies in the order of the questions. Raises JudgeError."""
        ...


@dataclass(frozen=True)
class Endpoint:
    """Where a judge is reached.

    Attributes:
        url: up to and with the version, such as `http://localhost:8000/v1`.
        model: as the server calls it.
        options: further fields of each request, such as {"temperature": 0, "max_tokens": 512}.
        workers: requests under way at once.
        max_retries: for 408, 409, 429, 5xx and lost connections, with exponential back-off (`Retry-After` is obeyed).
        timeout: of one request, in seconds.
    """

    url: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 4
    max_retries: int = 6
    timeout: float = 120.0

    def __post_init__(self):
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"judge URL {self.url!r}: must start with http:// or https:// and name a host")
        if not self.model:
            raise ValueError("the judge's model has no name")
        if self.workers < 1 or self.max_retries < 0 or self.timeout <= 0:
            raise ValueError("a judge needs at least 1 worker, 0 or more retries and a timeout above 0")
        reserved = sorted({"model", "messages", "stream", "n"} & set(self.options))
        if reserved:
            raise ValueError(f"judge options {reserved}: these fields are set by the program")

    def key(self) -> str:
        """The key from the environment. Raises ValueError where there is none and OpenAI's own host is asked."""
        key = os.environ.get(KEY_VARIABLE)
        host = urlsplit(self.url).hostname or ""
        if not key and (host == "openai.com" or host.endswith(".openai.com")):
            raise ValueError(f"{self.url} needs a key: set the environment variable {KEY_VARIABLE}")
        return key or NO_KEY


class ReplyCache:
    """Replies by question, on disk (JSON Lines). One process at a time may have it open.

    Args:
        path: the file; None keeps replies for the life of the object only.

    Raises:
        ValueError: another process has the file open, or it is no cache.
    """

    def __init__(self, path: str | Path | None):
        self._lines = None if path is None else DurableLines(path)
        self._replies: dict[str, Reply] = {}
        for number, record in enumerate(self._lines.records if self._lines else [], 1):
            try:
                self._replies[record["key"]] = Reply(**record["reply"])
            except (KeyError, TypeError):
                raise ValueError(f"{path}, line {number}: no reply of a judge; name another file") from None

    def get(self, key: str) -> Reply | None:
        """The reply to the question with this key, if there was one."""
        return self._replies.get(key)

    def add(self, key: str, described: Mapping[str, Any], reply: Reply) -> None:
        """Keep a reply; `described` is for people who read the file."""
        if self._lines is not None:
            self._lines.append([{"key": key, **described, "reply": vars(reply)}])
        self._replies[key] = reply

    def close(self) -> None:
        """Let other processes use the file."""
        if self._lines is not None:
            self._lines.close()


class JudgeClient:
    """A judge behind an endpoint, with a cache.

    Args:
        endpoint: where, who and how.
        cache: where replies are kept.

    Attributes:
        usage: what was asked so far.
    """

    def __init__(self, endpoint: Endpoint, cache: ReplyCache):
        import openai  # most of a second, which settings of a judge can do without

        self.name = endpoint.model
        self.settings = {"url": endpoint.url, "options": dict(endpoint.options)}
        self.usage = Usage()
        self._endpoint = endpoint
        self._cache = cache
        self._lock = threading.Lock()
        self._client = openai.OpenAI(
            api_key=endpoint.key(),
            base_url=endpoint.url,
            max_retries=endpoint.max_retries,
            timeout=endpoint.timeout,
        )

    def ask(self, question: Question) -> Reply:
        """The reply, from the cache if this was asked before.

        Raises:
            JudgeError: none came after all retries, or it is no chat completion.
        """
        described = self._describe(question)
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        known = self._cache.get(key)
        if known is not None:
            with self._lock:
                self.usage.from_cache += 1
            return known
        reply = self._request(question)
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
        self._cache.add(key, described, reply)
        return reply

    def ask_all(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies in the order of the questions, several requests at a time.

        Raises:
            JudgeError: one of them has no reply; no further request is sent, and those under way are in the cache by then.
        """
        with ThreadPoolExecutor(self._endpoint.workers) as pool:
            asked = [pool.submit(self.ask, question) for question in questions]
            try:
                return [reply.result() for reply in tqdm(asked, desc="judging", unit="reply", disable=None)]
            except BaseException:  # Ctrl-C and a full disk too: nothing more is to be paid for
                pool.shutdown(cancel_futures=True)  # those under way still reach the cache
                raise

    def _describe(self, question: Question) -> dict[str, Any]:
        """What the reply depends on; images by their content, so that the file stays small."""
        return {
            "url": self._endpoint.url,
            "model": self._endpoint.model,
            "options": dict(self._endpoint.options),
            "system": question.system,
            "text": question.text,
            "images": [hashlib.sha256(path.read_bytes()).hexdigest() for path in question.images],
            "repeat": question.repeat,
        }

    def _request(self, question: Question) -> Reply:
        import openai

        system = [] if question.system is None else [{"role": "system", "content": question.system}]
        user = {"role": "user", "content": _content(question)}
        place = f"the judge {self._endpoint.model} at {self._endpoint.url}"
        try:
            completion = self._client.chat.completions.create(
                model=self._endpoint.model,
                messages=[*system, user],
                extra_body=dict(self._endpoint.options),
            )
        except (openai.OpenAIError, ValueError) as error:  # ValueError: it says JSON and sends none
            raise JudgeError(
                f"{place} gave no reply ({self._endpoint.max_retries} retries allowed): {error}"
            ) from error
        try:
            choice, usage = completion.choices[0], completion.usage
            counts = (int(usage.prompt_tokens or 0), int(usage.completion_tokens or 0)) if usage else (0, 0)
            text = _text(choice.message.content)
            return Reply(text, *counts, choice.finish_reason, _first_token(choice))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise JudgeError(f"{place} sent no chat completion: {str(completion)[:200]!r}") from None


def _text(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a message; some servers send it in parts. Raises KeyError or TypeError for anything else."""
    return (
        content or ""
        if content is None or isinstance(content, str)
        else "".join(part["text"] for part in content)
    )


def _first_token(choice: Any) -> dict[str, float] | None:
    """Token → log-probability at the first place, where the server says them; one token may be spelt in several ways."""
    content = getattr(choice.logprobs, "content", None)
    if not content:
        return None
    return {one.token: float(one.logprob) for one in (content[0].top_logprobs or content[:1])}


def _content(question: Question) -> str | list[dict[str, Any]]:
    """A plain string where there is no image: not every server takes a list of parts."""
    if not question.images:
        return question.text
    images = [{"type": "image_url", "image_url": {"url": image_data_url(path)}} for path in question.images]
    return [*images, {"type": "text", "text": question.text}]
