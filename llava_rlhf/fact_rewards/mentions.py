"""What the things that an answer names earn, told by the facts of its row. Text alone: no model, no tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from data_utils.fact_lists import FactList
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.assertions import Mention, with_stances
from llava_rlhf.fact_rewards.object_words import OWN_WORDS, SHAPES_WORDS, ObjectWords

WORD_LISTS = {"coco": OWN_WORDS, "shapes": SHAPES_WORDS}

# right, wrong: the first mention of a thing that is there, or is not; repeated: a later one; unmentioned: nobody knows;
# unsaid: denied or asked for, which is no mention.
Verdict = Literal["right", "wrong", "repeated", "unmentioned", "unsaid"]


@dataclass(frozen=True)
class Truth:
    """What the facts of a row say of things, by canonical names.

    Attributes:
        there: named by a fact that is sure, and asserted in it.
        absent: not there for certain: denied, and nowhere asserted.
        unsure: named by facts alone that are not sure.
        complete: every other thing is not there.
    """

    there: frozenset[str]
    absent: frozenset[str]
    unsure: frozenset[str]
    complete: bool

    def verdict(self, name: str, penalise: bool) -> Verdict:
        """Of the first mention of a thing; `penalise`: what no fact names counts as not there."""
        if name in self.there:
            return "right"
        if name in self.absent:
            return "wrong"
        if name in self.unsure:
            return "unmentioned"
        return "wrong" if self.complete or penalise else "unmentioned"


@dataclass(frozen=True)
class Judged:
    """A mention, what became of it and what it earned; `probability` that it is there, where the picture was asked."""

    mention: Mention
    verdict: Verdict
    reward: float
    probability: float | None = None


@dataclass(frozen=True)
class FactReward:
    """What an answer earned by what it says.

    Attributes:
        mentions: in the order of the text, those that are no mention of a thing (`unsaid`), too; or claims.
        named, there: how many of the things in the facts it names, and how many there are; of claims, how many facts it tells on
            average, and how many there are.
        coverage: what that earned; 0 where the question is not open, or no fact names a thing.
        undecided: questions to which the judge said neither Yes nor No.
    """

    mentions: tuple[Judged, ...]
    named: float
    there: int
    coverage: float
    undecided: int = 0

    @property
    def by_mentions(self) -> float:
        """Sum over the mentions."""
        return sum(one.reward for one in self.mentions)

    @property
    def total(self) -> float:
        """All that it earned."""
        return self.by_mentions + self.coverage

    def spans(self) -> list[tuple[int, float]]:
        """(characters up to the end of the mention, reward) of each that earned something."""
        return [(one.mention.end, one.reward) for one in self.mentions if one.reward]

    def count(self, verdict: Verdict) -> int:
        """Mentions of which this became."""
        return sum(one.verdict == verdict for one in self.mentions)


def word_list(arguments: FactRewardArguments) -> ObjectWords:
    """The words that the flags name. Raises ValueError for a bad `--fact_synonyms`."""
    return ObjectWords(
        WORD_LISTS[arguments.fact_words], arguments.fact_synonyms, ("--fact_words", "--fact_synonyms")
    )


def truth(facts: FactList, words: ObjectWords) -> Truth:
    """What facts say of the things in a list of words; what is asked in a fact says nothing."""
    there, denied, unsure = set(), set(), set()
    for fact in facts.facts:
        for mention in with_stances(fact.text, words.found(fact.text)):
            if mention.stance == "asserted":
                (there if fact.sure else unsure).add(mention.name)
            elif mention.stance == "denied" and fact.sure:
                denied.add(mention.name)
    return Truth(
        frozenset(there), frozenset(denied - there), frozenset(unsure - there - denied), facts.complete
    )


@dataclass(frozen=True)
class MentionReward:
    """Σ over first mentions (right, wrong or 0) + coverage score · named / there.

    What no fact judges, and the picture was asked for, earns p · right + (1 − p) · wrong: what it would earn on average.

    Attributes:
        words: which things are known.
        arguments: what they earn.
    """

    words: ObjectWords
    arguments: FactRewardArguments

    def unmentioned(self, text: str, facts: FactList) -> list[str]:
        """Things that a text names of which no fact says whether they are there, each once."""
        judged = self._judged(text, truth(facts, self.words), {})
        return [one.mention.name for one in judged if one.verdict == "unmentioned"]

    def of(
        self,
        text: str,
        facts: FactList,
        open_question: bool,
        seen: Mapping[str, float | None] | None = None,
    ) -> FactReward:
        """What an answer earns.

        Args:
            text: the answer.
            facts: of its row.
            open_question: whether it should name all that is there. A multiple-choice or yes/no answer should not.
            seen: thing → probability that the picture shows it, of those that were asked for; None where that was left open.
        """
        known = truth(facts, self.words)
        mentions = list(self._judged(text, known, seen or {}))
        named = len(known.there & {one.mention.name for one in mentions if one.verdict == "right"})
        share = named / len(known.there) if open_question and known.there else 0.0
        coverage = self.arguments.fact_coverage_score * share
        return FactReward(tuple(mentions), named, len(known.there), coverage)

    def _judged(self, text: str, known: Truth, seen: Mapping[str, float | None]) -> Iterator[Judged]:
        named: set[str] = set()
        for mention in with_stances(text, self.words.found(text)):
            verdict: Verdict = "unsaid"
            if mention.stance == "asserted":
                penalise = self.arguments.unmentioned == "penalise"
                verdict = "repeated" if mention.name in named else known.verdict(mention.name, penalise)
                named.add(mention.name)
            probability = seen.get(mention.name) if verdict == "unmentioned" else None
            yield Judged(mention, verdict, self._score(verdict, probability), probability)

    def _score(self, verdict: Verdict, probability: float | None) -> float:
        right, wrong = self.arguments.fact_right_score, self.arguments.fact_wrong_score
        if probability is not None:
            return probability * right + (1 - probability) * wrong
        return {"right": right, "wrong": wrong}.get(verdict, 0.0)
