"""What is sent to the service and comes back: its own format, OpenRLHF's `remote_rm_url`, verl's reward servers.

The field names of others are those of their code: `openrlhf/utils/agent.py` and `openrlhf/cli/serve_rm.py` of
OpenRLHF/OpenRLHF, `verl/experimental/reward_loop/reward_loop.py` of verl-project/verl. Neither sends pictures or facts to a
reward model, so that these travel as a JSON object in a field that both pass on as it is.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_utils.problems import Problem, shorten
from llava_rlhf.reward_service.refusals import RefusedError, refused_rows, row_problem

if TYPE_CHECKING:
    from llava_rlhf.reward_service.application import ScoringDesk

OWN_FIELDS = frozenset({"rows", "pictures"})
SENT = "pictures"


async def own(desk: ScoringDesk, content: dict[str, Any]) -> dict[str, Any]:
    """`{"rows": […], "pictures": {…}}` → `{"model": …, "rows": [{"id": …, "score": …}, …]}`, in their order."""
    unknown = sorted(content.keys() - OWN_FIELDS)
    if unknown:
        raise RefusedError(
            422, f"unknown fields {', '.join(unknown)}; known are {', '.join(sorted(OWN_FIELDS))}"
        )
    rows = content.get("rows")
    scores = await desk.score(rows, content.get(SENT))
    ids = [{"id": row["id"]} if row.get("id") is not None else {} for row in rows]
    return {
        "model": desk.description["model"],
        "rows": [{**one, **score} for one, score in zip(ids, scores, strict=True)],
    }


async def openrlhf(desk: ScoringDesk, content: dict[str, Any]) -> dict[str, Any]:
    """`{"query": […], "prompts": […], "labels": […]}` → `{"rewards": […], "scores": […], "extra_logs": {}}`.

    A query is prompt and answer as the policy's tokenizer writes them, stop token included. A label is the row as JSON,
    without its answer; its `pictures` are those of the row.
    """
    queries, prompts, labels = (_texts(content, name) for name in ("query", "prompts", "labels"))
    if not len(queries) == len(prompts) == len(labels):
        raise RefusedError(
            422,
            f"{len(queries)} query, {len(prompts)} prompts and {len(labels)} labels: must be as many of each",
        )
    rows, sent, problems = [], [], []
    for number, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
        row, pictures, wrong = _labelled(number, label, "labels")
        at = query.find(prompt)
        if at < 0:
            wrong.append(row_problem(number, "query", shorten(query), "must hold its entry of 'prompts'"))
        problems += wrong
        rows.append({**row, **_answer(query[at + len(prompt) :], desk.answer_ends)})
        sent.append(pictures)
    if problems:
        raise refused_rows(problems)
    scores = [result["score"] for result in await desk.score(rows, own=sent)]
    return {"rewards": scores, "scores": scores, "extra_logs": {}}


async def classify(desk: ScoringDesk, content: dict[str, Any]) -> dict[str, Any]:
    """`{"model": …, "input": …}` → `{"data": [{"probs": [score]}, …]}`, as verl asks vLLM."""
    data = [{"index": number, "probs": [score]} for number, score in enumerate(await _inputs(desk, content))]
    return {"model": desk.description["model"], "data": data}


async def embeddings(desk: ScoringDesk, content: dict[str, Any]) -> dict[str, Any]:
    """`{"model": …, "input": …}` → `{"data": [{"embedding": [score]}, …]}`, as verl asks SGLang."""
    data = [
        {"index": number, "embedding": [score]} for number, score in enumerate(await _inputs(desk, content))
    ]
    return {"model": desk.description["model"], "data": data}


ADDRESSES: Mapping[str, Callable[[Any, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "/v1/score": own,
    "/v1/openrlhf": openrlhf,
    "/classify": classify,
    "/v1/embeddings": embeddings,
}


async def _inputs(desk: ScoringDesk, content: dict[str, Any]) -> list[float]:
    """Scores of `input`: a row as JSON, or a list of them."""
    given = content.get("input")
    texts = _texts({"input": [given] if isinstance(given, str) else given}, "input")
    if not texts:
        raise RefusedError(422, "input: must be a row as JSON, or a list of one or more")
    rows, sent, problems = zip(
        *(_labelled(number, text, "input") for number, text in enumerate(texts)), strict=True
    )
    if wrong := [problem for found in problems for problem in found]:
        raise refused_rows(wrong)
    return [result["score"] for result in await desk.score(list(rows), own=sent)]


def _texts(content: Mapping[str, Any], name: str) -> list[str]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RefusedError(422, f"{name}: must be a list of texts, not {shorten(value)}")
    return value


def _labelled(number: int, text: str, name: str) -> tuple[dict[str, Any], Any, list[Problem]]:
    """The row in a text, the pictures that it brings, and what is wrong with it."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict):
        return row, row.pop(SENT, None), []
    remedy = 'must be a row as JSON, {"question": …, "image": …, "captions": […]}: a chat as text has neither pictures nor facts'
    return {}, None, [row_problem(number, name, shorten(text), remedy)]


def _answer(text: str, ends: Sequence[str]) -> dict[str, Any]:
    """The answer behind a prompt, without the space around it, as in training; complete where a stop token follows."""
    places = [(at, end) for end in ends if (at := text.find(end)) >= 0]
    if not places:
        return {"answer": text.strip(), "stopped": False}
    return {"answer": text[: min(places)[0]].strip(), "stopped": True}
