"""Asks a reward service from any environment: this file alone, standard library alone. Copy it, or name its path.

    TRL        from llava_rlhf.reward_service.client import RewardClient, trl_reward
               GRPOTrainer(reward_funcs=trl_reward(RewardClient("http://127.0.0.1:8100")), …)
    verl       reward.custom_reward_function.path=…/client.py (its `compute_score`); REWARD_URL names the service
    by hand    RewardClient("http://127.0.0.1:8100").score([{"question": …, "answer": …, "image": …, "captions": […]}])

The key, where the service asks for one, is read from REWARD_API_KEY. docs/serve_reward.md describes rows and pictures.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from typing import Any

# Proxies are for the world outside: keys and pictures do not go through one.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TRY_AGAIN = (408, 429, 502, 503, 504)  # another moment may be better
ROW_FIELDS = ("question", "image_name", "captions", "facts", "answer_type", "caption_type", "prompt_row")


class RewardClient:
    """A reward service.

    Args:
        url: scheme, host and port.
        patience: seconds for which a service that is busy, starts anew or can't be reached is asked again.
        rows_a_request: more are sent in parts; a row of several pictures counts as as many.
        timeout: seconds for an answer.
    """

    def __init__(self, url: str, patience: float = 300.0, rows_a_request: int = 64, timeout: float = 600.0):
        self.url, self.patience, self.rows_a_request, self.timeout = (
            url.rstrip("/"),
            patience,
            rows_a_request,
            timeout,
        )

    def describe(self) -> dict[str, Any]:
        """What the service says of its reward model."""
        return self._call("/v1/model", None)

    def score(self, rows: list[dict[str, Any]], pictures: dict[str, str] | None = None) -> list[float]:
        """Scores of rows, in their order.

        Args:
            rows: question, answer, and what else answers files have; `image` names a file of the service, or one of
            pictures: name → base64 of a picture file (`encoded` makes it).

        Raises:
            RuntimeError: refused, with the service's words, or no answer for as long as `patience` lasts.
        """
        scores: list[float] = []
        for part in _parts(rows, self.rows_a_request):
            named = {name for row in part for name in _names(row)}
            sent = {name: text for name, text in (pictures or {}).items() if name in named}
            scores += [
                row["score"] for row in self._call("/v1/score", {"rows": part, "pictures": sent})["rows"]
            ]
        return scores

    def _call(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("REWARD_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data, until, pause = (
            None if body is None else json.dumps(body).encode(),
            time.monotonic() + self.patience,
            0.1,
        )
        while True:
            try:
                request = urllib.request.Request(self.url + path, data, headers)
                with _OPENER.open(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                told, final = f"HTTP {error.code}, {_message(error.read())}", error.code not in TRY_AGAIN
            except (OSError, ValueError, http.client.HTTPException) as error:
                told, final = str(error) or type(error).__name__, False
            if final or time.monotonic() + pause > until:
                raise RuntimeError(f"{self.url}{path}: {told}") from None
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def encoded(picture: Any) -> str:
    """Base64 of a picture: of its file (a path or bytes), or without loss of a Pillow image."""
    if isinstance(picture, (str, os.PathLike)):
        with open(picture, "rb") as file:
            picture = file.read()
    elif not isinstance(picture, bytes):
        file = io.BytesIO()
        picture.save(file, "PNG")
        picture = file.getvalue()
    return base64.b64encode(picture).decode()


def trl_reward(client: RewardClient, stop_ids: Collection[int] = ()) -> Callable[..., list[float]]:
    """A function for TRL's `reward_funcs`.

    Columns of the data set that it reads: `question` (else the text of the prompt's last message), `image` (Pillow; sent)
    or `image_name` (a file of the service), `captions`, `facts`, `answer_type`, `caption_type`,
    `prompt_row`.

    Args:
        client: of the service.
        stop_ids: tokens that end an answer; one without any was cut off, which the reward model is told. Empty: none was.
    """

    def reward_model(prompts: list, completions: list, **columns: Any) -> list[float]:
        rows: list[dict[str, Any]] = []
        pictures: dict[str, str] = {}
        names: dict[int, str] = {}  # of the same picture, which stands in every row of a group
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = _row(
                {name: values[place] for name, values in columns.items() if name in ROW_FIELDS and values}
            )
            row.setdefault("question", _text(prompt))
            row["answer"] = _text(completion).strip()
            if stop_ids and columns.get("completion_ids"):
                row["stopped"] = not set(stop_ids).isdisjoint(columns["completion_ids"][place])
            picture = columns["image"][place] if columns.get("image") else None
            if picture is not None and "image" not in row:
                if id(picture) not in names:
                    text = encoded(picture)
                    names[id(picture)] = f"picture-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
                    pictures[names[id(picture)]] = text
                row["image"] = names[id(picture)]
            rows.append(row)
        return client.score(rows, pictures)

    return reward_model


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any, **more: Any
) -> float:
    """For verl's custom reward function: `extra_info` holds the row without its answer, and its `pictures`.

    The service is `reward_router_address` where verl passes one on, else the one of REWARD_URL.
    """
    address = more.get("reward_router_address")
    url = f"http://{address}" if address else os.environ.get("REWARD_URL", "http://127.0.0.1:8100")
    row = {"image": extra_info.get("image"), **_row(extra_info), "answer": solution_str.strip()}
    return RewardClient(url).score([row], extra_info.get("pictures"))[0]


def _row(values: Any) -> dict[str, Any]:
    """The fields of a row among other values; columns hold None where a row has none."""
    row = {name: values[name] for name in ROW_FIELDS if values.get(name) is not None}
    if "image_name" in row:
        row["image"] = row.pop("image_name")
    return row


def _parts(rows: list[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """Rows in parts of up to `most`, counted as the service counts them; one row is never cut."""
    part: list[dict[str, Any]] = []
    filled = 0
    for row in rows:
        room = max(len(_names(row)), 1)
        if part and filled + room > most:
            yield part
            part, filled = [], 0
        part.append(row)
        filled += room
    if part:
        yield part


def _names(row: dict[str, Any]) -> list[str]:
    image = row.get("image")
    return [image] if isinstance(image, str) else list(image or ())


def _text(content: Any) -> str:
    """Text of a prompt or an answer: a string, or messages, of which the last counts; pictures in it are left out."""
    if isinstance(content, list) and content and "content" in content[-1]:
        content = content[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _message(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text
