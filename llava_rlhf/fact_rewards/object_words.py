"""Which objects does a text speak of? Words and phrases, their plurals, the longest phrase first; COCO's list and others."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_utils.json_files import read_text

OWN_WORDS = Path(__file__).with_name("coco_objects.txt")
OWN_PHRASES = Path(__file__).with_name("coco_phrases.txt")
SHAPES_WORDS = Path(__file__).with_name("shapes_objects.txt")  # of the tiny world
PUBLISHED_PHRASES = Path(__file__).with_name("published_phrases.txt")

# Words that are mostly adjectives, and name a thing only where no other noun follows. What may follow a noun:
_ADJECTIVES = frozenset({"orange", "baseball", "basketball", "football"})
_AFTER_NOUNS = frozenset(
    "a an the this that these those his her its their my your our some any each and or but nor with without on in at of to "
    "by for from near next beside behind under over above below between among around through across into onto inside outside "
    "off up down out while as like than which who where when is are was were has have had be being been can will would may "
    "might should does do did it he she they we you there here not also too still just then so sits lies stands hangs rests "
    "sitting lying laying hanging resting growing floating rolling falling flying coming going moving bouncing heading "
    "thrown hit held caught kicked placed left cut sliced peeled slice slices wedge wedges segment segments half halves piece "
    "pieces section sections fruit fruits visible".split()
)
_COLOURS = frozenset(
    "red blue green yellow white black brown gray grey pink purple orange tan beige gold silver blond blonde cream".split()
)
# Before a colour, not before a fruit.
_BEFORE_COLOURS = frozenset(
    "is are was were bright light dark deep pale neon burnt painted colored coloured wearing in all dressed".split()
)

_WORDS = re.compile(r"[a-z]+|[.,;:!?()\n]|'(?= )")


class Named(NamedTuple):
    """An object that a text names, and where: characters `start` to `end`."""

    name: str
    start: int
    end: int


class ObjectWords:
    """Words for objects.

    Args:
        path: one object a line, its name first, then other words for it, separated by commas (the format of the published
            `synonyms.txt` of CHAIR); None for our own list, with our own phrases and adjectives.
        more: a second list, of more words for the same objects and of other objects.
        flags: what names the two in messages.

    Raises:
        ValueError: no such file, or a word stands for two objects.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        more: str | Path | None = None,
        flags: tuple[str, str] = ("--synonyms_file", "--fact_synonyms"),
    ):
        self.own = path is None or Path(path) == OWN_WORDS
        self.files = (OWN_WORDS, OWN_PHRASES) if self.own else (Path(path), PUBLISHED_PHRASES)
        self.names: set[str] = set()
        self._objects: dict[tuple[str, ...], str | None] = {}
        self._read_words(flags[0], self.files[0])
        if more is not None:
            self._read_words(flags[1], Path(more))
        for phrase, name in list(self._objects.items()):  # a word that is there itself goes before a plural
            for plural in plurals(phrase[-1]):
                self._objects.setdefault((*phrase[:-1], plural), name)
        self._read_phrases(self.files[1])
        self._longest = max(map(len, self._objects))

    def _read_words(self, flag: str, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"{flag} {path}: no such file")
        try:
            lines = read_text(path).splitlines()
        except ValueError as error:
            raise ValueError(f"{flag} {path}: {error}") from None
        rows = [[word.strip().lower() for word in line.split(",") if word.strip()] for line in lines]
        for number, row in enumerate(rows, 1):
            for word in row:
                phrase = tuple(_words(word))
                if not phrase:
                    raise ValueError(
                        f"{flag} {path}, line {number}: {word!r} has no letter from a to z, so no text would match it"
                    )
                if self._objects.setdefault(phrase, row[0]) != row[0]:
                    raise ValueError(
                        f"{flag} {path}, line {number}: {word!r} stands for {self._objects[phrase]!r} too"
                    )
            self.names |= set(row[:1])
        if not self.names:
            raise ValueError(f"{flag} {path}: no words")

    def _read_phrases(self, path: Path) -> None:
        """Add the phrases; those of the list of words itself go before them."""
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            pattern, _, name = line.partition("=")
            for phrase in map(tuple, _expanded(pattern)):
                means: str | None = name.strip() or None
                if means == "*":
                    means = self._objects.get(phrase[-1:])
                for last in (phrase[-1], *plurals(phrase[-1])):
                    self._objects.setdefault((*phrase[:-1], last), means if means in self.names else None)

    def mentions(self, text: str) -> list[str]:
        """Names of the objects that a text speaks of, one for each mention, in order."""
        return [named.name for named in self.found(text)]

    def found(self, text: str) -> list[Named]:
        """Every mention of an object in a text, in order; none overlaps another."""
        spans = list(_WORDS.finditer(_lowered(text)))
        words = [span.group() for span in spans]
        found, place = [], 0
        while place < len(words):
            longest = min(self._longest, len(words) - place)
            length = next(
                (n for n in range(longest, 0, -1) if tuple(words[place : place + n]) in self._objects), 0
            )
            if length:
                name = self._objects[tuple(words[place : place + length])]
                adjective = self.own and length == 1 and _is_adjective(words, place)
                if name is not None and not adjective:
                    found.append(Named(name, spans[place].start(), spans[place + length - 1].end()))
            place += max(length, 1)
        return found


def _is_adjective(words: Sequence[str], place: int) -> bool:
    """Whether a word that may name a thing here only describes one ("orange shirt", "a white and orange cat")."""
    word = words[place]
    if word not in _ADJECTIVES:
        return False
    before, after = words[max(place - 2, 0) : place], words[place + 1 : place + 3]
    if word == "orange":
        if before[-1:] and before[-1] in _BEFORE_COLOURS | _COLOURS:
            return True
        if len(before) == 2 and before[1] in ("and", "or", ",") and before[0] in _COLOURS:
            return True
        if len(after) == 2 and after[0] in ("and", "or", ",") and after[1] in _COLOURS:
            return True
    return bool(after) and after[0].isalpha() and after[0] not in _AFTER_NOUNS


def _expanded(pattern: str) -> Iterator[list[str]]:
    """Every phrase of "a (b|c) d"."""
    parts = [part.split("|") for part in re.split(r"[()]", pattern)]
    for chosen in itertools.product(*parts):
        yield _words("".join(chosen))


def _words(text: str) -> list[str]:
    """Words in small letters, and the marks that a phrase reaches across only where it has them itself ("'" for "'s")."""
    return _WORDS.findall(_lowered(text))


def _lowered(text: str) -> str:
    """As long as the text: small letters, and "' " for "'s"."""
    small = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    return re.sub(r"['’]s(?![a-z])", "' ", small)


def plurals(word: str) -> Iterable[str]:
    """Regular plurals; irregular ones stand in the file."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies",)
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)
