"""Which of COCO's objects does a text speak of? Words and phrases, their plurals, the longest phrase first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

OWN_WORDS = Path(__file__).with_name("coco_objects.txt")


class ObjectWords:
    """Words for objects.

    Args:
        path: one object a line, its name first, then other words for it, separated by commas (the format of the published
            `synonyms.txt` of CHAIR).

    Raises:
        ValueError: no such file, or a word stands for two objects.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise ValueError(f"--synonyms_file {path}: no such file")
        self.names: set[str] = set()
        self._objects: dict[tuple[str, ...], str] = {}
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [[word.strip().lower() for word in line.split(",") if word.strip()] for line in lines]
        for number, row in enumerate(rows, 1):
            for word in row:
                phrase = tuple(_words(word))
                if self._objects.setdefault(phrase, row[0]) != row[0]:
                    raise ValueError(
                        f"--synonyms_file {path}, line {number}: {word!r} stands for {self._objects[phrase]!r} too"
                    )
            self.names |= set(row[:1])
        if not self.names:
            raise ValueError(f"--synonyms_file {path}: no words")
        for phrase, name in list(self._objects.items()):  # a word that is there itself goes before a plural
            for plural in _plurals(phrase[-1]):
                self._objects.setdefault((*phrase[:-1], plural), name)
        self._longest = max(map(len, self._objects))

    def mentions(self, text: str) -> list[str]:
        """Names of the objects that a text speaks of, one for each mention, in order."""
        words = _words(text)
        found, place = [], 0
        while place < len(words):
            length = next(
                (n for n in range(self._longest, 0, -1) if tuple(words[place : place + n]) in self._objects),
                0,
            )
            if length:
                found.append(self._objects[tuple(words[place : place + length])])
            place += max(length, 1)
        return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("'s ", " ").replace("’s ", " "))


def _plurals(word: str) -> Iterable[str]:
    """Regular plurals; irregular ones stand in the file."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies",)
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)
