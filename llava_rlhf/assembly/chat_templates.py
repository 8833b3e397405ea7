"""A base's own chat template → the pieces that it writes, found by words that stand for a question or an answer.

Every conversation is then written from the pieces. Whether that is what the template writes is looked at with dialogues of
several shapes, in text and in ids: one that rewrites what was said before, for example, can't be taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from data_utils.conversation import ChatTemplate, dialogue_segments, query_segments
from data_utils.schema import IMAGE_MARKER, Turn
from data_utils.tokens import SegmentEncoder
from llava_rlhf.assembly.template_files import PLACES, read_chat_template, shown
from models.families.base import Family

# Characters of nobody's language, so that no template looks for them or changes them.
_QUESTIONS = ("\ue000q\ue001", "\ue000r\ue001")
_ANSWERS = ("\ue000a\ue001", "\ue000b\ue001")
_MARKS = re.compile("|".join((*_QUESTIONS, *_ANSWERS)))
# Pictures in front of each question.
_PROBES = ((0,), (1,), (2,), (0, 1), (1, 0), (2, 1), (0, 2, 0))
INSTEAD = "choose a base with a plainer chat template, or correct it; only LLaVAs on Vicuna 1.5 can do with --version v1"


class Exchange(NamedTuple):
    """A question behind its pictures, and the answer to it, if it has been given."""

    pictures: int
    question: str
    answer: str | None


@dataclass(frozen=True)
class _Base:
    """What is asked of a base while its template is read."""

    folder: str | Path
    tokenizer: PreTrainedTokenizerBase
    family: Family
    source: str
    system_message: str | None

    def write(self, exchanges: Sequence[Exchange]) -> str:
        """A dialogue in the words of the template; one whose last answer is missing, up to where it would begin."""
        messages: list[dict[str, Any]] = []
        if self.system_message is not None:
            messages.append({"role": "system", "content": [{"type": "text", "text": self.system_message}]})
        for pictures, question, answer in exchanges:
            parts = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
            messages.append({"role": "user", "content": parts})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=exchanges[-1].answer is None,
            )
        except Exception as error:  # a program of its author's: it raises what it likes
            said = f" with the message of --system_message {self.system_message!r}"
            raise self.refusal(
                f"can't be rendered{said if self.system_message is not None else ''} ({type(error).__name__}: {error})"
            ) from error

    def refusal(self, reason: str) -> ValueError:
        """Why there can be no `--version chat` with this base, and what to do."""
        return ValueError(f"--version chat: the chat template of {self.folder} {reason}; {INSTEAD}")

    def between(self, exchanges: Sequence[Exchange]) -> list[str]:
        """What the template writes before, between and behind all questions and answers."""
        text = self.write(exchanges)
        said = [part for exchange in exchanges for part in exchange[1:] if part is not None]
        if _MARKS.findall(text) != said:
            raise self.refusal(
                f"does not write every question and answer once, in their order: {shown(text)}"
            )
        return _MARKS.split(text)

    def control_tokens(self) -> list[str]:
        """Words that can't be typed, the longest first; other added tokens, like runs of line breaks, are text."""
        added = self.tokenizer.added_tokens_decoder.values()
        return sorted((str(token) for token in added if token.special), key=len, reverse=True)

    def picture_marks(self) -> list[str]:
        """As `picture_marks` says."""
        return picture_marks(self.family, self.tokenizer)


def picture_marks(family: Family, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a template may write for a picture: all that stands around its positions, or one token of that."""
    ids, image = list(family.placeholder(family.blank()[1][0])), family.image_token_id
    single = [index for place, index in enumerate(ids) if index != image or ids[place - 1 : place] != [image]]
    tokens = tokenizer.convert_ids_to_tokens(single)
    return ["".join(tokens), tokenizer.convert_ids_to_tokens(image), tokens[0]]


def read_pieces(
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    encoder: SegmentEncoder,
    family: Family,
    system_message: str | None,
) -> ChatTemplate:
    """The chat template of a base, with the system message in it.

    Args:
        folder: of the base.
        tokenizer, encoder, family: of the base.
        system_message: None: what the template writes where none is given.

    Raises:
        ValueError: there is none, it can't be taken apart, or it has no place for a system message.
    """
    source = read_chat_template(folder)
    if source is None:
        raise ValueError(
            f"--version chat: {folder} has no chat template (looked for {', '.join(PLACES)}); fetch the base again with it, "
            "or use --version v1 for a LLaVA on Vicuna 1.5"
        )
    base = _Base(folder, tokenizer, family, source, system_message)
    _check_system_message(base)
    template = _take_apart(base)
    _check_probes(base, template, encoder)
    return template


def _check_system_message(base: _Base) -> None:
    message = base.system_message
    if message is None:
        return
    typed = [token for token in base.control_tokens() if token in message]
    if typed:
        raise ValueError(
            f"--system_message {message!r}: {typed[0]!r} is a token of {base.folder}, which can't be typed; leave it out"
        )
    text = base.write([Exchange(0, _QUESTIONS[0], None)])
    if text.count(message.strip()) != 1 or not message.strip():
        raise ValueError(
            f"--system_message {message!r}: the chat template of {base.folder} has no place for it: {shown(text)}; leave it out"
        )


def _take_apart(base: _Base) -> ChatTemplate:
    two = [Exchange(0, _QUESTIONS[0], _ANSWERS[0]), Exchange(0, _QUESTIONS[1], _ANSWERS[1])]
    first, answering, behind, again, end = base.between(two)
    asked, ask = base.between([two[0]._replace(answer=None)])
    if asked != first or again != answering or not answering.startswith(ask):
        raise base.refusal(
            f"writes a question otherwise once it is answered: {shown(asked + ask)}, then {shown(first + answering)} and "
            f"{shown(again)}"
        )
    tokens = base.control_tokens()
    stop = next((token for token in tokens if behind.startswith(token) and end.startswith(token)), None)
    if stop is None:
        raise base.refusal(f"ends an answer with no token, so that none would ever stop: {shown(end)}")
    openings = _picture_openings(base, stop)
    pieces = {
        "first": first,
        "later": behind.removeprefix(stop),
        **openings,
        "ask": ask,
        "lead": answering.removeprefix(ask),
    }
    told = "".join((*pieces.values(), stop))
    control = sorted(token for token in tokens if token in told)
    return ChatTemplate(**pieces, stop=stop, trims=_trims(base), control=tuple(control))


def _picture_openings(base: _Base, stop: str) -> dict[str, str]:
    one = [Exchange(1, _QUESTIONS[0], _ANSWERS[0]), Exchange(1, _QUESTIONS[1], None)]
    first, _, behind, _ = base.between(one)
    twice, _ = base.between([Exchange(2, _QUESTIONS[0], None)])
    written = twice[len(first) :]
    mark = next((mark for mark in base.picture_marks() if written.count(mark) == 1), None)
    if mark is None or not (
        twice == first + written and first.endswith(written) and behind.endswith(written)
    ):
        raise base.refusal(
            f"writes pictures elsewhere than one behind the other in front of their question, or not as "
            f"{' or '.join(map(repr, dict.fromkeys(base.picture_marks())))}: {shown(twice)}"
        )
    before, after = written.split(mark)
    return {
        "first_image": first.removesuffix(written),
        "later_image": behind.removesuffix(written).removeprefix(stop),
        "before_image": before + base.family.beside_pictures,
        "after_image": base.family.beside_pictures + after,
    }


def _trims(base: _Base) -> bool:
    wide = Exchange(0, f" \n{_QUESTIONS[0]}\n ", f" \n{_ANSWERS[0]}\n ")
    return base.write([wide]) == base.write([Exchange(0, _QUESTIONS[0], _ANSWERS[0])])


def _check_probes(base: _Base, template: ChatTemplate, encoder: SegmentEncoder) -> None:
    """Whole dialogues and ones that wait for an answer: text by text and id by id."""
    image = base.tokenizer.convert_ids_to_tokens(base.family.image_token_id)
    beside, bos = base.family.beside_pictures, base.tokenizer.bos_token
    for counts in _PROBES:
        exchanges = [
            Exchange(count, f"What is in picture {place}?", f"A cat, {place}.")
            for place, count in enumerate(counts)
        ]
        turns = [turn for exchange in exchanges for turn in _turns(exchange)]
        for asks in (False, True):
            last = exchanges[-1]._replace(answer=None) if asks else exchanges[-1]
            written = base.write([*exchanges[:-1], last])
            for mark in base.picture_marks():
                if mark in written:
                    written = written.replace(mark, f"{beside}{image}{beside}")
                    break
            segments = (
                query_segments(template, turns[:-1], sum(counts))
                if asks
                else dialogue_segments(template, turns, sum(counts))
            )
            ours = "".join(image if segment.kind == "image" else segment.text for segment in segments)
            if written != ours and (asks or written.rstrip() != ours):
                raise base.refusal(
                    f"can't be written from fixed pieces: they make {shown(ours)}, it {shown(written)}"
                )
            own = base.tokenizer(ours, add_special_tokens=bos is None or not ours.startswith(bos))[
                "input_ids"
            ]
            if list(encoder.encode(segments).ids) != own:
                raise base.refusal(
                    f"is read otherwise by its tokenizer as a whole than in pieces: {shown(ours)}"
                )


def _turns(exchange: Exchange) -> list[Turn]:
    return [
        Turn("human", f"{IMAGE_MARKER}\n" * exchange.pictures + exchange.question),
        Turn("gpt", exchange.answer or ""),
    ]
