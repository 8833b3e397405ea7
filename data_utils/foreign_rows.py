"""Rows in the formats of other frameworks, told by their fields: which one it is, and what a row here has instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_utils.row_fields import BadField

FORMATS = 'see "Record formats" in docs/formats.md'
IMPORT = "python -m llava_rlhf.make_dataset import --source FILE converts them"


@dataclass(frozen=True)
class RowKind:
    """What a reader wants.

    Attributes:
        name: of one row, with its article.
        needed: fields without any of which a row is of another format.
        fields: the fields in words.
        known: all fields that are read, for which other spellings are refused.
    """

    name: str
    needed: tuple[frozenset[str], ...]
    fields: str
    known: frozenset[str]


_MESSAGES, _OUTPUTS = frozenset({"conversations"}), frozenset({"output_1", "output_2", "preference"})
_COMMON = frozenset({"conversations", "captions", "facts"})
DIALOGUE = RowKind("a dialogue", (_MESSAGES,), "conversations (and image)", _COMMON)
PREFERENCE = RowKind(
    "a preference",
    (_MESSAGES, _OUTPUTS),
    "conversations, output_1, output_2 and preference (and image)",
    _COMMON | _OUTPUTS,
)
PROMPT = RowKind(
    "a prompt",
    (_MESSAGES,),
    "conversations (and image, caption_type)",
    _COMMON | {"caption_type", "length_bonus"},
)
ANSWER = RowKind(
    "an answer",
    (frozenset({"question"}), frozenset({"answer"})),
    "question, answer and image",
    frozenset("question answer captions facts stopped prompt_row answer_type caption_type".split()),
)

# Fields that a row has → whose rows have them; the first that fits is named.
_FORMATS: tuple[tuple[str, str], ...] = (
    ("messages rejected_response", "ms-swift preferences"),
    ("messages rejected_messages", "ms-swift preferences"),
    ("query response rejected_response", "ms-swift preferences"),
    ("conversations chosen rejected", "LLaMA-Factory preferences (ShareGPT layout)"),
    ("messages chosen rejected", "LLaMA-Factory preferences (messages)"),
    ("instruction chosen rejected", "LLaMA-Factory preferences (Alpaca layout)"),
    ("prompt chosen rejected", "TRL preferences"),
    ("question chosen rejected", "DPO pairs, as RLAIF-V has them"),
    ("chosen rejected", "TRL preferences"),
    ("ds_name text", "RLHF-V (question and answers as JSON in a text)"),
    ("completions", "VLFeedback (completions with annotations)"),
    ("prompt completion", "TRL prompts with completions"),
    ("conversations output_1 output_2", "preferences of this project"),
    ("messages", "OpenAI messages (role, content), which TRL, LLaMA-Factory and ms-swift read"),
    ("instruction output", "Alpaca"),
    ("query response", "ms-swift"),
    ("prompt response", "prompts with responses"),
    ("question_id text label", "POPE questions"),
    ("question_id text", "questions or answers of LLaVA's evaluation"),
    ("question answer", "answers of this project, or a VQA data set"),
    ("question response", "questions with responses"),
    ("problem solution", "TRL prompts with solutions"),
    ("conversation", "dialogues under another key (conversation)"),
    ("image caption", "captions of pictures"),
    ("prompt", "TRL prompts"),
)

# Names of those that become preferences.
_IMPORTED = (
    *("ms-swift preferences", "LLaMA-Factory preferences (ShareGPT", "LLaMA-Factory preferences (messages)"),
    *("TRL preferences", "DPO pairs", "RLHF-V", "VLFeedback"),
)


def refuse_other_format(row: Mapping[str, Any], kind: RowKind) -> None:
    """Raise BadField, with the name of the format, for a row that lacks what it must have and is of another format."""
    if not _lacks_a_need(row, kind):
        _refuse_other_messages(row, kind)
        return
    name = format_name(row)
    if name is None and kind is PREFERENCE and row.get("conversations") is not None:
        name = "dialogues or prompts"
    if name is not None:
        way = IMPORT if kind is PREFERENCE and name.startswith(_IMPORTED) else FORMATS
        remedy = f"these are the fields of {name}; {kind.name} here has {kind.fields}: {way}"
        raise BadField("row", sorted(row), remedy, f"format {name}")


def format_name(row: Mapping[str, Any]) -> str | None:
    """Whose rows have these fields; None for nobody's that is known."""
    for fields, name in _FORMATS:
        if all(row.get(field) is not None for field in fields.split()):
            return name
    text = row.get("text")
    if isinstance(text, str) and text.lstrip().startswith('{"question"'):
        return "RLHF-V (question and answers as JSON in a text)"
    return None


def _lacks_a_need(row: Mapping[str, Any], kind: RowKind) -> bool:
    if any(all(row.get(field) is None for field in needed) for needed in kind.needed):
        return True
    messages = row.get("conversations")
    last = messages[-1] if isinstance(messages, list) and messages else None
    ends_open = isinstance(last, Mapping) and last.get("from") == "human"
    return kind is DIALOGUE and ends_open and {"chosen", "rejected"} <= row.keys()


def _refuse_other_messages(row: Mapping[str, Any], kind: RowKind) -> None:
    """Messages that have roles and contents, or parts, under the key that is read."""
    messages = row.get("conversations")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, Mapping):
            return
        parts = next((value for value in message.values() if _are_parts(value)), None)
        if parts is not None or ("role" in message and "from" not in message):
            remedy = (
                'these are OpenAI messages (role, content); here a message is {"from": "human" or "gpt", "value": text}, '
                f"with <image> for each picture of `image`: {FORMATS}"
            )
            raise BadField(f"conversations[{index}]", message, remedy, "OpenAI messages")


def _are_parts(value: Any) -> bool:
    """A text and pictures as a list of typed parts."""
    return isinstance(value, list) and any(isinstance(part, Mapping) and "type" in part for part in value)
