"""Conversation templates as frozen values, and turns → text segments that are supervised or not.

A segment list is the one description of a conversation that tokens and loss masks are both made from.
The strings are interface: released checkpoints were trained with them (template `v1` is Vicuna's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_utils.schema import IMAGE_MARKER, Turn


@dataclass(frozen=True)
class ConversationTemplate:
    """`{system}{separator}{user_role}: {question}{separator}{assistant_role}: {answer}{stop}{user_role}: …`."""

    name: str
    system: str
    user_role: str
    assistant_role: str
    separator: str
    stop: str


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation: text, one image, or the stop token; `supervised` pieces carry loss."""

    kind: Literal["text", "image", "stop"]
    text: str
    supervised: bool


TEMPLATES = {
    "v1": ConversationTemplate(
        name="v1",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        user_role="USER",
        assistant_role="ASSISTANT",
        separator=" ",
        stop="</s>",
    ),
    "tiny": ConversationTemplate(
        name="tiny", system="", user_role="USER", assistant_role="ASSISTANT", separator=" ", stop="</s>"
    ),
}


def dialogue_segments(template: ConversationTemplate, turns: Sequence[Turn], n_images: int) -> list[Segment]:
    """Segments of a whole dialogue (human, gpt, human, gpt, …); every answer and its stop are supervised.

    The space after the assistant's colon belongs to the answer. Raises ValueError when the turns do not
    alternate or the image markers do not fit `n_images`.
    """
    if len(turns) % 2:
        raise ValueError(f"a dialogue must end with a gpt turn, got roles {[turn.role for turn in turns]}")
    return _segments(template, turns, n_images)


def query_segments(template: ConversationTemplate, turns: Sequence[Turn], n_images: int) -> list[Segment]:
    """Segments of a dialogue that waits for an answer: the last turn is human, the text ends with the colon.

    No segment but those of earlier answers is supervised. Raises ValueError as `dialogue_segments` does.
    """
    if len(turns) % 2 == 0:
        raise ValueError(f"a query must end with a human turn, got roles {[turn.role for turn in turns]}")
    return _segments(template, turns, n_images)


def message_parts(text: str, n_images: int) -> tuple[int, str]:
    """Number of images in front of a human message and the text behind them, markers removed.

    A message without image is kept verbatim; with images its rest is stripped, as the reference does.
    """
    rest = text.replace(IMAGE_MARKER, "")
    return n_images, rest.strip() if n_images else rest


def _segments(template: ConversationTemplate, turns: Sequence[Turn], n_images: int) -> list[Segment]:
    expected = [("human", "gpt")[index % 2] for index in range(len(turns))]
    if [turn.role for turn in turns] != expected:
        raise ValueError(f"roles must alternate from human on, got {[turn.role for turn in turns]}")
    images = _images_per_turn(turns, n_images)
    segments: list[Segment] = []
    opening = f"{template.system}{template.separator}" if template.system else ""
    for turn, count in zip(turns, images, strict=True):
        if turn.role == "gpt":
            segments += [Segment("text", f" {turn.text}", True), Segment("stop", template.stop, True)]
            continue
        count, rest = message_parts(turn.text, count)
        text = f"{opening}{template.user_role}: "
        for _ in range(count):
            segments += [Segment("text", text, False), Segment("image", IMAGE_MARKER, False)]
            text = "\n"
        # `<image>\n` + rest, stripped: an image alone keeps no line break behind it.
        text = text + rest if rest or not count else ""
        segments.append(Segment("text", f"{text}{template.separator}{template.assistant_role}:", False))
        opening = ""
    return segments


def _images_per_turn(turns: Sequence[Turn], n_images: int) -> list[int]:
    counts = [turn.text.count(IMAGE_MARKER) if turn.role == "human" else 0 for turn in turns]
    if n_images == 1 and sum(counts) == 0:
        counts[0] = 1
    if sum(counts) != n_images:
        raise ValueError(f"{sum(counts)} {IMAGE_MARKER} marker(s) in human messages for {n_images} image(s)")
    return counts
