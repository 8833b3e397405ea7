"""What the claims of an answer earn, told by the facts of its row. Text alone: who is asked stands elsewhere.

A claim is a sentence. Whoever judges says with which probability the facts support it and with which they contradict it;
what is left is what they do not mention, and means the same as for things that are named (`mentions`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from data_utils.fact_lists import CAPTION, FactList
from llava_rlhf.assembly.sentences import sentence_ends
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.assertions import Mention
from llava_rlhf.fact_rewards.mentions import FactReward, Judged, Verdict

# Each is answered with Yes or No. The facts come first: judges that keep what they have read need not read them again.
SUPPORTED = (
    "Notes about an image:\n{facts}\n\nQuestion: {question}\nAnswer: {claim}\n\nDo the notes say that this answer is true? "
    "Answer with Yes or No."
)
CONTRADICTED = SUPPORTED.replace("is true?", "is false?")
SHOWN = "Question: {question}\nAnswer: {claim}\n\nDoes the image show that this answer is true? Answer with Yes or No."
TOLD = (
    "Notes about an image:\n{facts}\n\nStatement: {claim}\n\nDo the notes say that the statement is true? "
    "Answer with Yes or No."
)
_PLACES = re.compile(r"\{(facts|question|claim)\}")


@dataclass(frozen=True)
class Answered:
    """An answer, with all that its claims are judged by.

    Attributes:
        text: the answer.
        question: what it answers: "Yes." alone claims nothing.
        facts: of its row.
        wide: whether the question is open, so that the answer should tell all that is known.
    """

    text: str
    question: str
    facts: FactList
    wide: bool


@dataclass(frozen=True)
class JudgedClaim(Judged):
    """A claim, its verdict and reward; `supported` and `contradicted` by the facts, probabilities, 0 without facts and where the
    judge said neither Yes nor No; None for what was not judged."""

    supported: float | None = None
    contradicted: float | None = None


@dataclass(frozen=True)
class Said:
    """Probabilities that facts support a claim and that they contradict it; their sum is at most 1.

    `decided`: the judge said whether they support it. Where it did not, nobody knows whether they are silent.
    """

    supported: float
    contradicted: float
    decided: bool = True

    @classmethod
    def of(cls, supported: float | None, contradicted: float | None) -> Said:
        """From two answers of their own, which may say more than 1 together: then each is its share of the sum.

        None, a judge that said neither Yes nor No, is 0: it neither pays nor costs. With ½ it would do one of the two.
        """
        found = (supported or 0.0, contradicted or 0.0)
        total = max(1.0, sum(found))
        return cls(*(one / total for one in found), supported is not None)

    @property
    def open(self) -> float:
        """Probability that they do not say."""
        return 1.0 - self.supported - self.contradicted

    @property
    def verdict(self) -> Verdict:
        """The likeliest of the three; of two that are equal the one that leaves more open."""
        most = max(self.open, self.supported, self.contradicted)
        return "unmentioned" if most == self.open else "wrong" if most == self.contradicted else "right"


NOTHING = Said(0.0, 0.0)  # where there are no facts


def claims(text: str) -> list[Mention]:
    """The sentences of an answer, in order, each without the space around it; what is asked is left open."""
    found = []
    for start, end in pairwise([0, *sentence_ends(text)]):
        sentence = text[start:end]
        begin = start + len(sentence) - len(sentence.lstrip())
        said = sentence.strip()
        if said:
            asks = said.rstrip("\"'”’»)]」』）").endswith(("?", "？"))
            found.append(Mention(said, begin, begin + len(said), "open" if asks else "asserted"))
    return found


def known_facts(facts: FactList) -> tuple[str, ...]:
    """What facts that are sure say, each once."""
    return tuple(dict.fromkeys(fact.text for fact in facts.facts if fact.sure))


def notes(facts: FactList) -> tuple[str, ...]:
    """The same as a judge reads it: whatever is no caption with its source, as in the reward model's prompt."""
    sure = (fact for fact in facts.facts if fact.sure)
    return tuple(dict.fromkeys(fact.text if fact.source == CAPTION else fact.line() for fact in sure))


def about_facts(template: str, facts: Sequence[str], question: str, claim: str) -> str:
    """The question whether facts say something of a claim; braces within any of them stay as they are."""
    return _filled(template, facts="\n".join(f"- {fact}" for fact in facts), question=question, claim=claim)


def about_picture(question: str, claim: str) -> str:
    """The question whether the picture shows a claim."""
    return _filled(SHOWN, question=question, claim=claim)


def _filled(template: str, **values: str) -> str:
    return _PLACES.sub(lambda place: values[place[1]], template)


@dataclass(frozen=True)
class ClaimReward:
    """Σ over claims, each once (s · right + c · wrong + what is left open) + coverage score · mean share of facts that are told.

    Attributes:
        arguments: what is paid.
    """

    arguments: FactRewardArguments

    def asked(self, text: str) -> list[str]:
        """The claims to be judged: each once, nothing that is a question."""
        return list(dict.fromkeys(one.name for one, repeated in _told(text) if not repeated))

    def questions(self, answer: Answered) -> list[str]:
        """What is to be asked of the facts, and of the answer: whether it tells them."""
        known = notes(answer.facts)
        if not known:
            return []
        found = [
            about_facts(template, known, answer.question, claim)
            for claim in self.asked(answer.text)
            for template in (SUPPORTED, CONTRADICTED)
        ]
        return [*found, *self._coverage_questions(answer)]

    def left_open(self, answer: Answered, said: Mapping[str, float | None]) -> list[str]:
        """Claims of which the facts most likely say nothing; none where they say that they are complete."""
        if answer.facts.complete:
            return []
        return [
            claim
            for claim in self.asked(answer.text)
            if self._said(claim, answer, said).verdict == "unmentioned"
        ]

    def of(
        self,
        answer: Answered,
        said: Mapping[str, float | None],
        seen: Mapping[str, float | None] | None = None,
    ) -> FactReward:
        """What an answer earns.

        Args:
            answer: what is judged, and by what.
            said: question of `questions` → probability of Yes; None where the judge said neither Yes nor No.
            seen: claim → probability that the picture shows it, of those that were asked for; None as in `said`.
        """
        seen = seen or {}
        judged = tuple(self._judged(answer, said, seen))
        known = len(known_facts(answer.facts))
        named = sum(said[question] or 0.0 for question in self._coverage_questions(answer))
        coverage = self.arguments.fact_coverage_score * (named / known if known else 0.0)
        undecided = sum(one is None for one in (*said.values(), *seen.values()))
        return FactReward(judged, named, known, coverage, undecided)

    def _coverage_questions(self, answer: Answered) -> list[str]:
        """For each fact whether the claims of an answer to an open question tell it."""
        told = self.asked(answer.text)
        if not told or not answer.wide or not self.arguments.fact_coverage_score:
            return []
        return [about_facts(TOLD, told, "", fact) for fact in known_facts(answer.facts)]

    def _said(self, claim: str, answer: Answered, said: Mapping[str, float | None]) -> Said:
        known = notes(answer.facts)
        if not known:
            return NOTHING
        pair = (
            about_facts(template, known, answer.question, claim) for template in (SUPPORTED, CONTRADICTED)
        )
        return Said.of(*(said[question] for question in pair))

    def _judged(
        self, answer: Answered, answers: Mapping[str, float | None], seen: Mapping[str, float | None]
    ) -> list[JudgedClaim]:
        found = []
        for claim, repeated in _told(answer.text, with_questions=True):
            if claim.stance == "open" or repeated:
                found.append(JudgedClaim(claim, "unsaid" if claim.stance == "open" else "repeated", 0.0))
                continue
            said = self._said(claim.name, answer, answers)
            verdict, probability = said.verdict, seen.get(claim.name)
            penalised = said.decided and (answer.facts.complete or self.arguments.unmentioned == "penalise")
            if verdict == "unmentioned" and penalised:
                verdict = "wrong"
            reward = self._score(said, probability, penalised)
            found.append(JudgedClaim(claim, verdict, reward, probability, said.supported, said.contradicted))
        return found

    def _score(self, said: Said, probability: float | None, penalised: bool) -> float:
        right, wrong = self.arguments.fact_right_score, self.arguments.fact_wrong_score
        left = wrong if penalised else 0.0
        if probability is not None and not penalised:
            left = probability * right + (1 - probability) * wrong
        return said.supported * right + said.contradicted * wrong + said.open * left


def _told(text: str, with_questions: bool = False) -> list[tuple[Mention, bool]]:
    """Claims and whether each was made before, whatever its capitals and marks; without what is asked, unless that is wanted."""
    before: set[str] = set()
    found = []
    for claim in claims(text):
        if claim.stance == "open":
            found += [(claim, False)] if with_questions else []
            continue
        plain = " ".join("".join(c if c.isalnum() else " " for c in claim.name.casefold()).split())
        found.append((claim, plain in before))
        before.add(plain)
    return found
