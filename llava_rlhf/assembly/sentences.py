"""Where the sentences of an answer end."""

from __future__ import annotations

import re

# What ends a sentence, and the quotes and brackets that close with it. Marks of other scripts need no space behind them.
_END = re.compile(
    r"(?P<mark>[.!?…]+[\"'”’»)\]]*)(?=\s|$)|(?P<wide>[。！？｡]+[\"'”’»」』）)\]]*)|(?P<line>\n)"
)
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st mt vs etc approx ca cf fig figs eq al resp inc ltd co dept est vol pp".split()
)
_BEFORE_NUMBERS = frozenset({"no", "nos"})
LONGEST = 20  # characters in which an abbreviation is looked for
_NO_WORD = re.compile(r"[^\w.]")
_LETTERS_AND_DOTS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # e.g, U.S, J


def sentence_ends(text: str) -> list[int]:
    """Character offsets, rising, behind each sentence; the last is the end of the text. None of an empty text.

    A sentence ends behind `.`, `!`, `?`, `…` and the quotes and brackets that close there, if space follows, behind their
    like in Chinese and Japanese, and with its line. Not behind a decimal point, an abbreviation ("e.g.", "Mr.", an
    initial) or the number of a list's entry: what has no letter belongs to the sentence behind it, or to the last one.
    """
    ends: list[int] = []
    start, lettered = 0, False  # of what was read since the last sentence
    for found in _END.finditer(text):
        lettered = lettered or _has_letter(text[start : found.end()])
        start = found.end()
        if lettered and not _is_abbreviation(text, found):
            ends.append(start)
            lettered = False
    if text and (not ends or lettered or _has_letter(text[start:])):
        ends.append(len(text))
    elif ends:
        ends[-1] = len(text)
    return ends


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))


def _is_abbreviation(text: str, found: re.Match[str]) -> bool:
    if found["mark"] != ".":
        return False
    word = _NO_WORD.split(text[max(0, found.start() - LONGEST) : found.start()])[-1]
    if _LETTERS_AND_DOTS.fullmatch(word) and word != "I":
        return True
    before_number = text[found.end() + 1 : found.end() + 2].isdigit()
    return word.lower() in _ABBREVIATIONS or (word.lower() in _BEFORE_NUMBERS and before_number)
