"""A judge of claims that knows nothing but words, behind an endpoint as real judges are: right in the tiny world alone.

Its captions name all there is, so that a thing is there exactly if the notes say so. Of a sentence that names several things it
says Yes with the share for which that holds, as a model would that is of two minds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llava_rlhf.fact_rewards.assertions import with_stances
from llava_rlhf.fact_rewards.object_words import SHAPES_WORDS, ObjectWords
from tests.support.judge_server import JudgeServer, with_tokens

NAME = "words"
_WORDS = ObjectWords(SHAPES_WORDS)


@cache
def chance_of_yes(text: str) -> float:
    """The answer to a question of `llava_rlhf.fact_rewards.claims`, as a probability; 0 where its statement names nothing."""
    notes, _, statement = text.partition("\nAnswer: ")
    if not statement:
        notes, _, statement = text.partition("\n\nStatement: ")
    notes = notes.partition("\n\nQuestion: ")[0]
    statement, _, asked = statement.partition("\n\n")
    said = _said(statement)
    if not said:
        return 0.0
    there = {name for name, is_there in _said(notes) if is_there}
    right = sum(is_there == (name in there) for name, is_there in said) / len(said)
    return 1 - right if "is false" in asked else right


def _said(text: str) -> set[tuple[str, bool]]:
    """Things of a text, and whether it says that they are there."""
    found = with_stances(text, _WORDS.found(text))
    return {(one.name, one.stance == "asserted") for one in found if one.stance != "open"}


def word_judge() -> JudgeServer:
    """A server that answers so while a `with` lasts."""
    return JudgeServer(_reply)


def _reply(text: str) -> dict[str, Any]:
    chance = chance_of_yes(text)
    chances = {word: share for word, share in (("Yes", chance), ("No", 1 - chance)) if share}
    likeliest = max(chances, key=chances.__getitem__)
    return with_tokens(likeliest, **chances)
