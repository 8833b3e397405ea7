"""Formats whose rows have a chosen and a rejected answer: TRL, RLAIF-V, RLHF-V, MM-RLHF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data_utils.row_fields import BadField
from data_utils.schema import Turn
from llava_rlhf.importing.conversations import answer_text, turns_of
from llava_rlhf.importing.fields import asked, one_answer, pair, parsed_text, row_pictures
from llava_rlhf.importing.outcomes import Context, Pair, Picture, Tie


def trl(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """TRL's vision preferences: `prompt` (a text, messages, or within the answers), `chosen`, `rejected`, `images` or `image`."""
    pictures = row_pictures(row, "images", "image")
    if row.get("prompt") is None:
        turns, within, outputs = _implicit_prompt(row.get("chosen"), row.get("rejected"))
        field = "chosen"
    else:
        field, prompt = "prompt", row["prompt"]
        turns, within = (asked(prompt, field), ()) if isinstance(prompt, str) else turns_of(prompt, field)
        outputs = one_answer(row.get("chosen"), "chosen"), one_answer(row.get("rejected"), "rejected")
    if within and pictures:
        raise BadField(
            within[0].field, within[0].value, f"the row has pictures under {pictures[0].field}, too"
        )
    yield pair(turns, pictures or within, outputs, field, context.system)


def _implicit_prompt(
    chosen: Any, rejected: Any
) -> tuple[tuple[Turn, ...], tuple[Picture, ...], tuple[str, str]]:
    """What both answers begin with is the prompt, as in TRL's `extract_prompt`: messages, or characters of texts."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        pairs = enumerate(zip(chosen, rejected, strict=False))
        shared = next((at for at, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
        if shared and chosen[shared - 1] == " ":
            shared -= 1
        if not chosen[:shared].strip():
            raise BadField(
                "chosen", chosen, "has no prompt: it and `rejected` begin differently; add `prompt`"
            )
        outputs = answer_text(chosen[shared:], "chosen"), answer_text(rejected[shared:], "rejected")
        return asked(chosen[:shared], "chosen"), (), outputs
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise BadField(
            "chosen", chosen, "must be a text or messages, as `rejected`, where there is no `prompt`"
        )
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((at for at, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    if not shared:
        raise BadField("chosen", chosen, "has no prompt: it and `rejected` begin differently; add `prompt`")
    turns, within = turns_of(chosen[:shared], "chosen")
    return turns, within, (one_answer(chosen[shared:], "chosen"), one_answer(rejected[shared:], "rejected"))


def rlaif_v(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """RLAIF-V: `question`, `chosen`, `rejected`, `image`."""
    outputs = answer_text(row.get("chosen"), "chosen"), answer_text(row.get("rejected"), "rejected")
    yield pair(
        asked(row.get("question"), "question"),
        row_pictures(row, "image", "image_path"),
        outputs,
        "question",
        context.system,
    )


def rlhf_v(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """RLHF-V: `text` is a JSON object with `question`, `chosen` and `rejected`; `image` beside it."""
    inner = parsed_text(row.get("text"), "text")
    outputs = tuple(answer_text(inner.get(key), f"text.{key}") for key in ("chosen", "rejected"))
    pictures = row_pictures(row, "image", "image_path")
    yield pair(
        asked(inner.get("question"), "text.question"), pictures, outputs, "text.question", context.system
    )


def mm_rlhf(row: Mapping[str, Any], context: Context) -> Iterator[Pair | Tie]:
    """MM-RLHF's `dpo_pairs.jsonl`: `prompt`, `chosen`, `rejected`, `image`; where `is_tie`, neither is better."""
    tie = row.get("is_tie", False)
    if tie not in (True, False):
        raise BadField("is_tie", tie, "must be true or false")
    outputs = answer_text(row.get("chosen"), "chosen"), answer_text(row.get("rejected"), "rejected")
    turns, pictures = asked(row.get("prompt"), "prompt"), row_pictures(row, "image", "images")
    if tie:
        yield Tie("is_tie", tie)
    else:
        yield pair(turns, pictures, outputs, "prompt", context.system)
