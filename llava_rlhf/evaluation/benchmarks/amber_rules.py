"""The rules of AMBER's inference.py for descriptions and for answers, one answer at a time.

Source: github.com/junyangwang0410/AMBER, inference.py; its oddities are kept, and docs/evaluation.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

_FIRST_WORD = re.compile(r"[a-z]+")


class Described(NamedTuple):
    """What became of a description.

    Attributes:
        mentions: nouns that are in the lists, each as often as it is named, safe words too.
        invented: those of them that are neither in the image nor safe.
        covered: things in the image that are named, of all `truths`.
        imagined: things a person might imagine there that are named, of all `imaginable`.
    """

    mentions: int
    invented: int
    covered: int
    truths: int
    imagined: int
    imaginable: int


def described(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    association: Mapping[str, Sequence[str]],
    vocabulary: Collection[str],
    safe: Collection[str],
    alike: Callable[[str, str], bool],
) -> Described:
    """Count a description.

    Args:
        nouns: what it names.
        truth: things in the image; one that stands there twice counts twice, and one noun covers the first of them alone.
        hallu: things a person might imagine there.
        association: thing → words that may stand for it.
        vocabulary: all words of `association`, things and what stands for them; other nouns are no mentions.
        safe: words that are never held against a description.
        alike: whether two words mean nearly the same.
    """
    there, imaginary = _targets(truth, association), _targets(hallu, association)
    mentions = [noun for noun in nouns if noun in vocabulary]
    covered: set[int] = set()
    imagined: set[int] = set()
    invented = 0
    for noun in mentions:
        if noun in safe:
            continue
        place = _first(there, lambda word, noun=noun: word == noun)
        if place is not None:
            covered.add(place)
            continue
        # Both, as published: the same noun can stand for one imagined thing, and be like another one.
        for matches in (lambda word, noun=noun: word == noun, lambda word, noun=noun: alike(noun, word)):
            place = _first(imaginary, matches)
            if place is not None:
                imagined.add(place)
        place = _first(there, lambda word, noun=noun: alike(noun, word))
        if place is None:
            invented += 1
        else:
            covered.add(place)
    return Described(len(mentions), invented, len(covered), len(truth), len(imagined), len(hallu))


def _targets(things: Sequence[str], association: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """Words with the place of the thing that they stand for: what is associated with any thing first, then the things."""
    others = [(word, place) for place, thing in enumerate(things) for word in association[thing]]
    return [*others, *((thing, place) for place, thing in enumerate(things))]


def _first(targets: Sequence[tuple[str, int]], matches: Callable[[str], bool]) -> int | None:
    return next((place for word, place in targets if matches(word)), None)


def says(answer: str, reading: str) -> bool | None:
    """Whether an answer is a yes (True) or a no (False); None: neither, which is wrong and counts as no "no".

    Args:
        answer: the text.
        reading: `published`: exactly "Yes" or "No"; `first_word`: its first word in any case.
    """
    if reading == "published":
        return {"Yes": True, "No": False}.get(answer)
    word = _FIRST_WORD.search(answer.lower())
    return {"yes": True, "no": False}.get(word[0]) if word else None
