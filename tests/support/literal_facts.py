"""Fact rewards written out for the words that the tiny policy knows.

What a sentence denies or asks is told by the program's own rules, which have examples of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from data_utils.schema import AnswerType
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.assertions import with_stances
from llava_rlhf.fact_rewards.object_words import Named

THINGS = ("cat", "dog", "bird", "car", "table")  # of COCO, among the words of the tiny tokenizer


def paid_mentions(
    response: list[int],
    decode: Callable[[list[int]], str],
    facts: Sequence[str],
    answer_type: AnswerType,
    settings: FactRewardArguments,
) -> Iterator[tuple[int, float]]:
    """(token, amount) of each mention that earns something, and of the coverage, on the last token.

    Args:
        response: ids.
        decode: ids → their text.
        facts: of the row.
        answer_type: of the question; open ones are asked for all things.
        settings: what is paid.
    """
    there = {thing for fact in facts for thing, _ in asserted(fact)}
    text, seen = decode(response).strip(), []
    for thing, end in asserted(text):
        if thing in seen:
            continue
        seen.append(thing)
        amount = settings.fact_right_score if thing in there else 0.0
        if thing not in there and settings.unmentioned == "penalise":
            amount = settings.fact_wrong_score
        token = next(
            n for n in range(len(response)) if len(decode(response[: n + 1]).lstrip().rstrip("\ufffd")) >= end
        )
        yield token, amount
    if answer_type is AnswerType.GENERAL and there:
        share = len(there & set(seen)) / len(there)
        yield len(response) - 1, settings.fact_coverage_score * share


def asserted(text: str) -> list[tuple[str, int]]:
    """(thing, characters up to its end) of what a text says is there."""
    words = re.finditer(r"[a-z]+", text)
    named = [Named(word.group(), word.start(), word.end()) for word in words if word.group() in THINGS]
    return [(one.name, one.end) for one in with_stances(text, named) if one.stance == "asserted"]
