"""Which token of a response says which character, so that what is found in a text can be paid where it was said."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"  # stands for bytes that make no character (yet)


@dataclass(frozen=True)
class TokenText:
    """The text of a response, and how much of it each token completes.

    Attributes:
        text: without control tokens, and without space at both ends.
        ends: a number a token, never falling: characters of `text` that are said once this token is. Control tokens add
            none; a character split over tokens belongs to the last of them.
    """

    text: str
    ends: list[int]

    def token_of(self, end: int) -> int:
        """Place of the token with which the first `end` characters are said; ValueError where the text is shorter."""
        if not 0 <= end <= len(self.text):
            raise ValueError(f"character {end} of a text of {len(self.text)}: {self.text!r}")
        return bisect_left(self.ends, end)


def token_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> TokenText:
    """Text and character ends of a response's ids, at least one. The text is `decode(ids).strip()`."""
    ids = list(ids)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    ends = _streamed_ends(tokenizer, ids, whole) or _prefix_ends(tokenizer, ids, whole)
    ends[-1] = len(whole)  # a character that was cut off with the response
    text = whole.strip()
    space = len(whole) - len(whole.lstrip())
    return TokenText(text, [min(max(end - space, 0), len(text)) for end in ends])


def _streamed_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], whole: str) -> list[int] | None:
    """In time linear in the ids; None where the tokens' own texts do not make up the whole one."""
    stream, said, ends = DecodeStream(skip_special_tokens=True), [], []
    length = 0
    for token in ids:
        try:
            piece = stream.step(tokenizer.backend_tokenizer, token) or ""
        except (
            Exception
        ):  # what it raises where a later byte changes an earlier character has no class of its own
            return None
        said.append(piece)
        length += len(piece)
        ends.append(length)
    if not whole.startswith("".join(said)) or whole[length:].strip(REPLACEMENT):
        return None
    return ends


def _prefix_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], whole: str) -> list[int]:
    """By decoding every beginning: slow, for bytes that make no text, where a decoder can't be asked token by token."""
    ends = [0]
    for count in range(1, len(ids) + 1):
        beginning = tokenizer.decode(ids[:count], skip_special_tokens=True)
        differ = (at for at, (here, there) in enumerate(zip(beginning, whole, strict=False)) if here != there)
        ends.append(max(ends[-1], next(differ, min(len(beginning), len(whole)))))
    return ends[1:]


def at_tokens(texts: Sequence[TokenText], spans: Sequence[Sequence[tuple[int, float]]], width: int) -> Tensor:
    """Amounts that are due at places of texts, on the tokens that say these places.

    Args:
        texts: of R responses.
        spans: for each response (end, amount): the amount is due when the first `end` characters are said.
        width: columns T, no fewer than a response has tokens.

    Returns:
        float32[R, T], 0 where nothing is due; amounts that meet on a token add up.

    Raises:
        ValueError: an end lies behind its text.
    """
    amounts = torch.zeros(len(texts), width)
    for row, (text, due) in enumerate(zip(texts, spans, strict=True)):
        for end, amount in due:
            amounts[row, text.token_of(end)] += amount
    return amounts
