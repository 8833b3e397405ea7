"""Preferences as other trainers read them: LLaMA-Factory's ShareGPT layout and ms-swift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data_utils.row_fields import BadField
from data_utils.schema import Turn
from llava_rlhf.importing.conversations import answer_text, turns_of
from llava_rlhf.importing.fields import asked, one_answer, pair, row_pictures
from llava_rlhf.importing.outcomes import Context, Pair


def llama_factory(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """LLaMA-Factory with `ranking`: `conversations` (or `messages`), `chosen`, `rejected`, `images`, and `system`."""
    field = "conversations" if row.get("conversations") is not None else "messages"
    turns, _ = turns_of(row.get(field), field)
    if row.get("system"):
        turns = (Turn("system", str(row["system"])), *turns)
    outputs = one_answer(row.get("chosen"), "chosen"), one_answer(row.get("rejected"), "rejected")
    yield pair(turns, row_pictures(row, "images", "image"), outputs, field, context.system)


def ms_swift(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """ms-swift: `messages` that end with the better answer; the other one is `rejected_response`, or ends `rejected_messages`.

    Also its older rows, with `query`, `response` and `rejected_response`.
    """
    pictures = row_pictures(row, "images", "image")
    if row.get("messages") is None:
        outputs = (
            answer_text(row.get("response"), "response"),
            answer_text(row.get("rejected_response"), "rejected_response"),
        )
        yield pair(asked(row.get("query"), "query"), pictures, outputs, "query", context.system)
        return
    turns, _ = turns_of(row["messages"], "messages")
    if turns[-1].role != "gpt":
        raise BadField("messages", [turn.role for turn in turns], "must end with the answer of the assistant")
    chosen = answer_text(turns[-1].text, f"messages[{len(turns) - 1}]")
    rejected = _rejected(row, turns)
    other = row.get("rejected_images")
    if other and other != row.get("images"):
        raise BadField("rejected_images", other, "both answers must be about the same pictures")
    yield pair(turns[:-1], pictures, (chosen, rejected), "messages", context.system)


def _rejected(row: Mapping[str, Any], turns: tuple[Turn, ...]) -> str:
    if row.get("rejected_response") is not None:
        return answer_text(row["rejected_response"], "rejected_response")
    others, _ = turns_of(row.get("rejected_messages"), "rejected_messages")
    if others[:-1] != turns[:-1] or others[-1].role != "gpt":
        remedy = "must be the messages of `messages` but for the last one, another answer"
        raise BadField("rejected_messages", [turn.text for turn in others], remedy)
    return answer_text(others[-1].text, f"rejected_messages[{len(others) - 1}]")
