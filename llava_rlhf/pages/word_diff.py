"""Which words of two answers differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

_SIGN = "[\u3040-\u30ff\u3400-\u9fff]"  # of scripts without spaces, which are compared sign by sign
_LETTERS = rf"(?:(?!{_SIGN})[^\W_])+"
_WORD = re.compile(
    rf"{_SIGN}|{_LETTERS}(?:[-'’.,_]{_LETTERS})*"
)  # red-circle, don't and 1,000 are one word each
_MOST_WORDS = 2000  # of both answers; those that repeat themselves take time that grows with its square

Piece = tuple[str, bool]  # text, and whether it differs


def differing_words(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces that join to them to the letter, and which pieces the other text lacks at that place.

    Upper and lower case are the same word, and punctuation between words is no difference. Words that differ one after
    the other are one piece. In texts of thousands of words nothing is marked.
    """
    words = [list(_WORD.finditer(text)) for text in (first, second)]
    if sum(map(len, words)) > _MOST_WORDS:
        return [(first, False)], [(second, False)]
    keys = [[word.group().casefold() for word in found] for found in words]
    # Without autojunk: a word that is frequent in a long answer counts like any other.
    steps = SequenceMatcher(None, *keys, autojunk=False).get_opcodes()
    changes = [step for step in steps if step[0] != "equal"]
    return (
        _pieces(first, [_span(words[0], start, end) for _, start, end, _, _ in changes if start < end]),
        _pieces(second, [_span(words[1], start, end) for _, _, _, start, end in changes if start < end]),
    )


def _span(words: Sequence[re.Match], start: int, end: int) -> tuple[int, int]:
    return words[start].start(), words[end - 1].end()


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces, done = [], 0
    for start, end in spans:
        pieces += [(text[done:start], False), (text[start:end], True)]
        done = end
    return [piece for piece in [*pieces, (text[done:], False)] if piece[0]]
