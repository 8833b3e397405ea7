"""Segments → token ids and supervision mask, built together so that they cannot disagree.

Each segment is tokenised by itself, so that a query followed by a response has, by construction, the ids of the
whole dialogue. Control tokens (BOS, stop, image) are inserted by id and can never come out of a text: `</s>` typed
by a user is four characters. Ids equal those of the released checkpoints (sentencepiece Llama, chunk-wise around images).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from data_utils.conversation import Segment
from data_utils.schema import IMAGE_MARKER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Sentencepiece writes a space as this character and puts one in front of every text ("dummy prefix").
SPACE_PIECE = "▁"


@dataclass(frozen=True)
class TokenSequence:
    """`ids` and, for each, whether it carries loss. An image is exactly one id here."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]


class SegmentEncoder:
    """Turns segments into ids with one tokenizer, which is read once and never changed.

    `lacks_words` says whether there are texts that it can't write; one that falls back to bytes writes them all.

    Raises ValueError when the stop of a template is no token of the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_token_id: int):
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        spec.update(post_processor=None, truncation=None, padding=None)
        self._prefixed = _backend(_sentencepiece_prefix(spec))
        self._bare = _backend(_without_prefix(spec))
        self._own = _backend(spec)
        self._prefixes_once = _first_text_only(spec)
        self._has_dummy_prefix = _adds_space_piece(self._prefixed)
        self._tokenizer = tokenizer
        self._begins_with_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._control_ids = (special | {image_token_id}) - {tokenizer.unk_token_id}
        self.image_token_id = image_token_id
        # Where one token is both, it is never written for a text that the vocabulary lacks.
        control = {tokenizer.bos_token_id, tokenizer.eos_token_id, image_token_id}
        self._unknown_id = None if tokenizer.unk_token_id in control else tokenizer.unk_token_id
        vocabulary = tokenizer.get_vocab()
        writes_bytes = spec["model"].get("byte_fallback") and all(
            f"<0x{n:02X}>" in vocabulary for n in range(256)
        )
        self.lacks_words = self._unknown_id is not None and not writes_bytes

    def encode(self, segments: Iterable[Segment]) -> TokenSequence:
        """Ids of a conversation, BOS first; a token is supervised iff its segment is.

        A base's own template gets one only where the tokenizer itself writes one, and the template has not.
        """
        segments, bos = list(segments), self._tokenizer.bos_token
        own = bool(segments) and segments[0].kind in ("control", "run")
        begun = own and (segments[0] == Segment("control", bos or "") or not self._begins_with_bos)
        begin = [] if bos is None or begun else [self._tokenizer.bos_token_id]
        found = self._encode(segments, "start")
        return TokenSequence((*begin, *found.ids), (*([False] * len(begin)), *found.supervised))

    def encode_behind(self, segments: Iterable[Segment]) -> list[int]:
        """Ids of what follows a whole conversation, for example of a template's reward prompt."""
        return list(self._encode(segments, "stop").ids)

    def _encode(self, segments: Iterable[Segment], before: str) -> TokenSequence:
        ids: list[int] = []
        supervised: list[bool] = []
        for segment in segments:
            if segment.kind == "image":
                new = [self.image_token_id]
            elif segment.kind in ("stop", "control"):
                new = [self._token_id(segment.text)]
            elif segment.kind == "chunk":
                new = self._plain(self._prefixed, segment.text)
            elif segment.kind == "run":
                begins = before == "start" or not (before == "run" or self._prefixes_once)
                new = self._plain(self._own if begins else self._bare, segment.text)
            else:
                new = self._encode_text(segment.text, before)
            ids += new
            supervised += [segment.supervised] * len(new)
            before = segment.kind
        return TokenSequence(tuple(ids), tuple(supervised))

    def encode_response(self, text: str) -> list[int]:
        """Ids of an answer as it follows the assistant's colon: a space and the text; no BOS, no stop."""
        return self._plain(self._bare, f" {text}")

    def encode_reward_prompt(self, text: str) -> list[int]:
        """Ids of a reward prompt that follows the last stop, as a chunk of its own; the caller prefixed one space."""
        return self.encode_behind([Segment("chunk", text)])

    def count_unknown(self, ids: Sequence[int]) -> int:
        """How many of `ids` stand for something that the vocabulary lacks."""
        return sum(index == self._unknown_id for index in ids)

    def unknown_words(self, text: str) -> list[str]:
        """What the vocabulary lacks of a text, each time it occurs."""
        encoding = self._bare.encode(f" {text}", add_special_tokens=False)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        return [f" {text}"[start:end].strip() for index, (start, end) in found if index == self._unknown_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text of `ids`, control tokens shown; an image shows as `<image>`."""
        parts: list[list[int]] = [[]]
        for index in ids:
            if index == self.image_token_id:
                parts.append([])
            else:
                parts[-1].append(int(index))
        return IMAGE_MARKER.join(self._tokenizer.decode(part, skip_special_tokens=False) for part in parts)

    def _encode_text(self, text: str, before: str) -> list[int]:
        if before in ("start", "image"):
            return self._plain(self._prefixed, text)
        if before == "text" or not self._has_dummy_prefix:
            return self._plain(self._bare, text)
        # What released checkpoints saw behind a stop: tokenised with the dummy prefix, which is then cut off
        # (so "USER" stays two pieces), except in front of a space.
        return self._plain(self._prefixed, text, strip_prefix=not text.startswith(" "))

    def _plain(self, backend: Tokenizer, text: str, strip_prefix: bool = False) -> list[int]:
        encoding = backend.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if index in self._control_ids:
                # A vocabulary may spell a control token out of ordinary pieces: write its letters instead.
                for letter in text[start:end]:
                    ids += self._bare.encode(letter, add_special_tokens=False).ids
            else:
                ids.append(index)
        if strip_prefix and encoding.tokens and encoding.tokens[0].startswith(SPACE_PIECE):
            piece = encoding.tokens[0][len(SPACE_PIECE) :]
            ids = self._bare.encode(piece, add_special_tokens=False).ids + ids[1:]
        return ids

    def _token_id(self, text: str) -> int:
        index = self._tokenizer.convert_tokens_to_ids(text)
        if index is None or (index == self._tokenizer.unk_token_id and text != self._tokenizer.unk_token):
            raise ValueError(f"the template's {text!r} is no token of the tokenizer; choose another template")
        return index


def expand_image_tokens(
    ids: Sequence[int], image_token_id: int, placeholders: Iterable[Sequence[int]]
) -> list[int]:
    """`ids` with every image token replaced by what stands for that image, whose features fill it.

    Of an iterator only as many placeholders are taken as there are images. Raises ValueError when there are too few.
    """
    waiting = iter(placeholders)
    expanded: list[int] = []
    for index in ids:
        if index != image_token_id:
            expanded.append(index)
            continue
        placeholder = next(waiting, None)
        if placeholder is None:
            raise ValueError("more image tokens than images")
        expanded += placeholder
    return expanded


def _backend(spec: dict[str, Any]) -> Tokenizer:
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.encode_special_tokens = True  # special tokens inside a text are plain text
    return backend


def _parts(component: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    return list(component[key]) if component["type"] == "Sequence" else [component]


def _join(parts: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    return {"type": "Sequence", key: parts} if parts else None


def _sentencepiece_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a whole-text Metaspace as the normalizer it stands for.

    Sentencepiece always puts its dummy prefix in front; Metaspace leaves it out when the text starts with a
    space, which every reward prompt does, and then gives ids that released checkpoints never saw.
    """
    steps = _parts(spec["pre_tokenizer"], "pretokenizers")
    whole = [s for s in steps if s["type"] == "Metaspace" and not s.get("split", True)]
    if not whole or whole[0]["prepend_scheme"] == "never":
        return spec
    prefix = [
        {"type": "Prepend", "prepend": whole[0]["replacement"]},
        {"type": "Replace", "pattern": {"String": " "}, "content": whole[0]["replacement"]},
    ]
    return {
        **spec,
        "normalizer": _join(_parts(spec["normalizer"], "normalizers") + prefix, "normalizers"),
        "pre_tokenizer": _join([s for s in steps if s is not whole[0]], "pretokenizers"),
    }


def _without_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer for text that continues a text: nothing is put in front."""
    normalizers = [s for s in _parts(spec["normalizer"], "normalizers") if s["type"] != "Prepend"]
    switched_off = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
    steps = [{**s, **switched_off.get(s["type"], {})} for s in _parts(spec["pre_tokenizer"], "pretokenizers")]
    return {
        **spec,
        "normalizer": _join(normalizers, "normalizers"),
        "pre_tokenizer": _join(steps, "pretokenizers"),
    }


def _first_text_only(spec: dict[str, Any]) -> bool:
    """Whether what is put in front stands at the very beginning only, not behind every token too."""
    steps = _parts(spec["pre_tokenizer"], "pretokenizers")
    return any(s["type"] == "Metaspace" and s.get("prepend_scheme") == "first" for s in steps)


def _adds_space_piece(backend: Tokenizer) -> bool:
    return backend.encode("a", add_special_tokens=False).tokens[0].startswith(SPACE_PIECE)
