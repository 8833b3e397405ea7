"""Conversation templates as frozen values, and turns → text segments that are supervised or not.

A segment list is the one description of a conversation that tokens and loss masks are both made from.
The strings are interface: released checkpoints were trained with them (template `v1` is Vicuna's).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from data_utils.schema import IMAGE_MARKER, Turn


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation: text, one image, a token of the template or the stop token; `supervised` ones carry loss.

    A `chunk` is text that is tokenised as if nothing stood before it.
    """

    kind: Literal["text", "chunk", "image", "control", "stop"]
    text: str
    supervised: bool = False


@dataclass(frozen=True)
class ConversationTemplate:
    """`{system}{separator}{user_role}: {question}{separator}{assistant_role}: {answer}{stop}{user_role}: …`."""

    name: str
    system: str
    user_role: str
    assistant_role: str
    separator: str
    stop: str

    def question(self, text: str, n_images: int, first: bool) -> list[Segment]:
        """A human turn with its images in front, up to where the answer begins."""
        segments: list[Segment] = []
        before = f"{self.system}{self.separator}" if first and self.system else ""
        before += f"{self.user_role}: "
        for _ in range(n_images):
            segments += [Segment("text", before), Segment("image", IMAGE_MARKER)]
            before = "\n"
        # `<image>\n` + rest, stripped: an image alone keeps no line break behind it.
        text = before + text if text or not n_images else ""
        return [*segments, Segment("text", f"{text}{self.separator}{self.assistant_role}:")]

    def answer(self, text: str) -> list[Segment]:
        """An answer without its stop; the space after the assistant's colon belongs to it."""
        return [Segment("text", f" {text}", True)]

    def reward_prompt(self, text: str) -> list[Segment]:
        """What the reward model reads behind the last stop; `text` begins with a space."""
        return [Segment("chunk", text)]


@dataclass(frozen=True)
class ChatTemplate:
    """`{first}{question}{ask}{answer}{stop}{later}{question}{ask}…`, in which some words are tokens of their own.

    Attributes:
        name: of the template.
        first, later: in front of the first question and of every other, behind which its images stand.
        ask: between question and answer.
        stop: the token that ends an answer.
        control: the words of all these that are tokens.
    """

    name: str
    first: str
    later: str
    ask: str
    stop: str
    control: tuple[str, ...]

    def question(self, text: str, n_images: int, first: bool) -> list[Segment]:
        """As in `ConversationTemplate`. A run of text between two tokens is one segment: merges go across its pieces."""
        images = [Segment("image", IMAGE_MARKER)] * n_images
        opening = self._pieces(self.first if first else self.later)
        return _joined([*opening, *images, Segment("text", text), *self._pieces(self.ask)])

    def answer(self, text: str) -> list[Segment]:
        """As in `ConversationTemplate`."""
        return [Segment("text", text, True)]

    def reward_prompt(self, text: str) -> list[Segment]:
        """One more question, up to where its answer would begin: the score is read there."""
        return self.question(text.strip(), 0, first=False)

    def _pieces(self, text: str) -> list[Segment]:
        parts = re.split(f"({'|'.join(map(re.escape, self.control))})", text)
        return [Segment("control" if part in self.control else "text", part) for part in parts if part]


Template = ConversationTemplate | ChatTemplate

_QWEN = ChatTemplate(
    name="qwen3_vl",
    first="<|im_start|>user\n",
    later="\n<|im_start|>user\n",
    ask="<|im_end|>\n<|im_start|>assistant\n",
    stop="<|im_end|>",
    control=("<|im_start|>", "<|im_end|>"),
)

TEMPLATES: dict[str, Template] = {
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
    "qwen2_5_vl": replace(
        _QWEN,
        name="qwen2_5_vl",
        first="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    ),
    "qwen3_vl": _QWEN,
}


def dialogue_segments(template: Template, turns: Sequence[Turn], n_images: int) -> list[Segment]:
    """Segments of a whole dialogue (human, gpt, human, gpt, …); every answer and its stop are supervised.

    Raises ValueError when the turns do not
    alternate or the image markers do not fit `n_images`.
    """
    if len(turns) % 2:
        raise ValueError(f"a dialogue must end with a gpt turn, got roles {[turn.role for turn in turns]}")
    return _segments(template, turns, n_images)


def query_segments(template: Template, turns: Sequence[Turn], n_images: int) -> list[Segment]:
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


def _segments(template: Template, turns: Sequence[Turn], n_images: int) -> list[Segment]:
    expected = [("human", "gpt")[index % 2] for index in range(len(turns))]
    if [turn.role for turn in turns] != expected:
        raise ValueError(f"roles must alternate from human on, got {[turn.role for turn in turns]}")
    images = _images_per_turn(turns, n_images)
    segments: list[Segment] = []
    for turn, count in zip(turns, images, strict=True):
        if turn.role == "gpt":
            segments += [*template.answer(turn.text), Segment("stop", template.stop, True)]
        else:
            count, rest = message_parts(turn.text, count)
            segments += template.question(rest, count, first=not segments)
    return segments


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """Texts that stand side by side as one."""
    joined: list[Segment] = []
    for segment in segments:
        if segment.kind == "text" and joined and joined[-1].kind == "text":
            joined[-1] = Segment("text", joined[-1].text + segment.text)
        elif segment.text:
            joined.append(segment)
    return joined


def _images_per_turn(turns: Sequence[Turn], n_images: int) -> list[int]:
    counts = [turn.text.count(IMAGE_MARKER) if turn.role == "human" else 0 for turn in turns]
    if n_images == 1 and sum(counts) == 0:
        counts[0] = 1
    if sum(counts) != n_images:
        raise ValueError(f"{sum(counts)} {IMAGE_MARKER} marker(s) in human messages for {n_images} image(s)")
    return counts
