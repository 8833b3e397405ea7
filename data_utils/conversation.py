"""Conversation templates as frozen values, and turns → text segments that are supervised or not.

A segment list is the one description of a conversation that tokens and loss masks are both made from.
The strings are interface: released checkpoints were trained with them (template `v1` is Vicuna's).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from data_utils.schema import IMAGE_MARKER, Turn

CHAT = "chat"  # the name of every template that is a base's own


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation: text, one image, a token of the template or the stop token; `supervised` ones carry loss.

    A `chunk` is text that is tokenised as if nothing stood before it. A `run` is text as the tokenizer itself reads it
    between two tokens.
    """

    kind: Literal["text", "chunk", "run", "image", "control", "stop"]
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
    """`{first}{question}{ask}{lead}{answer}{stop}{later}{question}{ask}…`: a base's own chat template in pieces.

    Attributes:
        first, later: in front of the first question and of every other.
        first_image, later_image: the same where images stand in front of the question.
        before_image, after_image: on both sides of each of them.
        ask: between a question and where its answer begins.
        lead: that an answer begins with.
        stop: the token that ends an answer.
        trims: whether white space around questions and answers is left out.
        control: the words of all these that are tokens.
    """

    first: str
    later: str
    first_image: str
    later_image: str
    before_image: str
    after_image: str
    ask: str
    lead: str
    stop: str
    trims: bool
    control: tuple[str, ...]
    name: ClassVar[str] = CHAT

    def question(self, text: str, n_images: int, first: bool) -> list[Segment]:
        """As in `ConversationTemplate`. What stands between two tokens is one run: merges go across its pieces."""
        plain, followed = (self.first, self.first_image) if first else (self.later, self.later_image)
        before, after = self._pieces(self.before_image), self._pieces(self.after_image)
        images = [*before, Segment("image", IMAGE_MARKER), *after] * n_images
        asked = Segment("run", self._trimmed(text))
        return _joined(
            [*self._pieces(followed if n_images else plain), *images, asked, *self._pieces(self.ask)]
        )

    def answer(self, text: str) -> list[Segment]:
        """As in `ConversationTemplate`."""
        return [Segment("run", self.lead + self._trimmed(text), True)]

    def reward_prompt(self, text: str) -> list[Segment]:
        """One more question, up to where its answer would begin: the score is read there."""
        return self.question(text.strip(), 0, first=False)

    def _trimmed(self, text: str) -> str:
        return text.strip() if self.trims else text

    def _pieces(self, text: str) -> list[Segment]:
        longest_first = sorted(self.control, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return [Segment("control" if part in self.control else "run", part) for part in parts if part]


Template = ConversationTemplate | ChatTemplate

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
}
VERSIONS = (*TEMPLATES, CHAT)


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
    """Runs that stand side by side as one."""
    joined: list[Segment] = []
    for segment in segments:
        if segment.kind == "run" and joined and joined[-1].kind == "run":
            joined[-1] = Segment("run", joined[-1].text + segment.text)
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
