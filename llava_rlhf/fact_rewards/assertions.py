"""Does a sentence say that a thing is there, that it is not, or neither? By words that deny, and how far they reach.

What is under "no", "without", "not" and their like is denied; what stands in a question or behind "whether" or "if" is
left open; all else is asserted, hedged or not ("there might be a dog"), so that a hedge is no way around a reward. English.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llava_rlhf.assembly.sentences import sentence_ends
from llava_rlhf.fact_rewards.object_words import Named

Stance = Literal["asserted", "denied", "open"]

_TOKEN = re.compile(r"[a-z]+n['’]t\b|[a-z]+|[.,;:!?…()”»\n]")
_MARKS = frozenset(".;:!?…()”»\n")
# Nouns right behind these are absent ("without a dog"); "absence of" and its like count with the second word.
_NOMINAL = frozenset("no without neither nor lacking lacks".split())
_NOMINAL_PAIRS = frozenset(
    {("absence", "of"), ("lack", "of"), ("devoid", "of"), ("void", "of"), ("free", "of"), ("free", "from")}
    | {("instead", "of"), ("rather", "than")}
)
# These deny what a verb says ("isn't holding a dog"); "the dog" behind them is there all the same.
_VERBAL = frozenset("not never cannot nothing nobody unable".split())
_OPEN = frozenset("whether if unclear unsure".split())
# Behind a word that denies, these take it back: "not only a dog", "no doubt a dog", "not many dogs".
_NOT_DENIED = frozenset(
    "only just merely simply many much all every everyone everything enough far necessarily doubt question matter less fewer "
    "more wonder surprise problem".split()
)
_ENDS = frozenset(
    "but however although though whereas while except besides unless because only just yet which apart aside".split()
)
_PLACES = frozenset(
    "near beside behind under above below between among around at in on inside outside by next against along across over "
    "beneath underneath atop from into onto off through toward towards".split()
)
_DEFINITE = frozenset("the this that these those his her its their my your our".split())
_INDEFINITE = frozenset("a an any no some another single".split())
_NUMBERS = frozenset("one two three four five six seven eight nine ten several many few both".split())
_CLAUSES = frozenset(
    "there here it he she they we you i who is are was were has have had does do can will sits stands lies wears holds "
    "shows with".split()
)
_NEW_CLAUSE = _DEFINITE | _NUMBERS | _CLAUSES | frozenset({"a", "an", "some", "another"})
# "The dog is not visible", "a dog can't be seen": behind a thing.
_DENIED_BEHIND = re.compile(
    r"(?:['’]s\s+not|\s+(?:(?:is|are|was|were|can|could|do|does)\s*(?:not|n['’]t)|(?:is|are)\s+nowhere|can(?:not|['’]t)))"
    r"\s+(?:be\s+)?"
    r"(?:[a-z]+ly\s+)?(?:visible|present|there|here|shown|seen|pictured|depicted|found|appear|to be seen|"
    r"in (?:the|this) (?:image|picture|photo|photograph|scene|frame))\b"
)
_FREE = re.compile(r"[-‐ ]free\b|[-‐]less\b")
_LISTED = re.compile(r"\s*,?\s*(?:and|or|nor|,)\s+(?:(?:a|an|any|the)\s+)?")


@dataclass(frozen=True)
class Mention:
    """A thing that a text names: its canonical name, characters `start` to `end`, and what is said of its presence."""

    name: str
    start: int
    end: int
    stance: Stance


def with_stances(text: str, named: Sequence[Named]) -> list[Mention]:
    """What a text says of each thing that it names.

    Args:
        text: an answer or a fact.
        named: the things in it, in order.
    """
    small = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    stances: list[Stance] = []
    start = 0
    for end in sentence_ends(text):
        inside = [one for one in named if start <= one.start < end]
        if small[start:end].rstrip(" \n\"'”’»)]").endswith("?"):
            stances += ["open"] * len(inside)
        else:
            stances += _stances_in(small, start, end, inside)
        start = end
    return [Mention(*one, stance) for one, stance in zip(named, stances, strict=True)]


@dataclass
class _Reach:
    """How far a word that denies has reached. `noun`: an article has begun what it denies; `definite`: the last one was
    "the"."""

    stance: Stance
    nominal: bool
    noun: bool = False
    definite: bool = False

    def of_thing(self) -> Stance:
        return "asserted" if self.definite and not self.nominal else self.stance


def _stances_in(text: str, start: int, end: int, named: Sequence[Named]) -> list[Stance]:
    tokens = [(found.group(), found.start()) for found in _TOKEN.finditer(text, start, end)]
    words = [word for word, _ in tokens]
    begins = {one.start: index for index, one in enumerate(named)}
    stances: list[Stance] = ["asserted"] * len(named)
    reach: _Reach | None = None
    for place, (word, at) in enumerate(tokens):
        begun = _begun(words, place)
        if begun is not None:
            reach = begun
        elif reach is not None and _ends(words, place, reach):
            reach = None
        if reach is None:
            continue
        _look_at_article(reach, word)
        if at in begins:
            stances[begins[at]] = reach.of_thing()
    _deny_behind(text[:end], named, stances)
    return stances


def _begun(words: Sequence[str], place: int) -> _Reach | None:
    """The reach that a word begins, if it is one that denies or leaves open."""
    word, behind = words[place], [*words[place + 1 : place + 3], "", ""]
    pair = (words[place - 1] if place else "", word)
    taken_back = behind[0] in _NOT_DENIED or (behind[0] == "a" and behind[1] in _NOT_DENIED)
    if word in _OPEN:
        return _Reach("open", nominal=False)
    if taken_back or (pair == ("rather", "than") and behind[0] == "that"):
        return None
    if word == "no" and behind[0] == "one":
        return _Reach("denied", nominal=False)
    answer = word == "no" and (behind[0] in _MARKS | {",", "", "there", "it", "this", "the"})
    if (word in _NOMINAL and not answer) or pair in _NOMINAL_PAIRS:
        return _Reach("denied", nominal=True)
    if word in _VERBAL or word.endswith(("n't", "n’t")):
        return _Reach("denied", nominal=False)
    return None


def _ends(words: Sequence[str], place: int, reach: _Reach) -> bool:
    """Whether the reach of an earlier word ends at this one."""
    word, behind = words[place], words[place + 1] if place + 1 < len(words) else ""
    if word in _MARKS or word in _ENDS or (word == "other" and behind == "than"):
        return True
    if word in _PLACES:
        return reach.nominal or reach.noun
    if word == "and":
        return behind in _NEW_CLAUSE
    if word == ",":
        return behind in _CLAUSES or (behind in _NEW_CLAUSE and not _is_listed(words, place))
    return False


def _is_listed(words: Sequence[str], place: int) -> bool:
    """Whether a comma stands in a list that "or" or "nor" ends: "isn't a dog, a cat, or a bird"."""
    for word in words[place + 1 :]:
        if word in ("or", "nor"):
            return True
        if word in _MARKS or word in _CLAUSES or word in _ENDS:
            return False
    return False


def _look_at_article(reach: _Reach, word: str) -> None:
    if word in _DEFINITE:
        reach.definite = True
    elif word in _INDEFINITE:
        reach.noun, reach.definite = True, False
    elif word in _PLACES or word in ("and", "or", ","):
        reach.definite = False


def _deny_behind(text: str, named: Sequence[Named], stances: list[Stance]) -> None:
    """Deny what is said behind a thing not to be seen, with all that is listed before it; "a dog-free street", too."""
    denied_next = False
    for index in range(len(named) - 1, -1, -1):
        end = named[index].end
        listed = index + 1 < len(named) and _LISTED.fullmatch(text, end, named[index + 1].start)
        denied_next = bool(_DENIED_BEHIND.match(text, end) or (denied_next and listed))
        if denied_next or _FREE.match(text, end):
            stances[index] = "denied"
