"""Formats with ratings or verdicts: VLFeedback, LLaVA-Critic's pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from data_utils.row_fields import BadField
from llava_rlhf.importing.conversations import answer_text, turns_of
from llava_rlhf.importing.fields import asked, pair, row_pictures
from llava_rlhf.importing.outcomes import Context, Pair, Tie

_COMPARISON = re.compile(
    r"Question:\s*\[(?P<question>.*?)\]\s*The first response:\s*\[(?P<first>.*)\]\s*"
    r"The second response:\s*\[(?P<second>.*)\]\s*(?:ASSISTANT:)?\s*$",
    re.DOTALL | re.IGNORECASE,
)
_FIRST, _SECOND = r"(?:first|1|one|a)", r"(?:second|2|two|b)"
_NOUN = r"(?:response|answer)"
_BETTER = (
    r"(?:the )?{which} {noun} is (?:(?:much|slightly|clearly|significantly|overall|therefore|thus) )*(?:better|superior|preferred)",
    r"(?:the )?{noun} {which} is (?:(?:much|slightly|clearly|significantly|overall|therefore|thus) )*(?:better|superior|preferred)",
    r"better {noun}(?: is)?:? ?(?:the )?(?:{noun} )?\[?{which}\b",
)
_TIE = re.compile(
    rf"\bequally (?:good|bad|well)\b|\b(?:it is|is|a|in a) tie\b|\bneither {_NOUN} is better\b|\bsame quality\b",
    re.IGNORECASE,
)


def vlfeedback(row: Mapping[str, Any], context: Context) -> Iterator[Pair | Tie]:
    """VLFeedback: all pairs of `completions`, the better one by the mean of its ratings; equal means are ties."""
    completions = _completions(row.get("completions"))
    turns, pictures = asked(row.get("prompt"), "prompt"), row_pictures(row, "image", "img_path")
    rated = [
        (answer_text(item.get("response"), f"completions[{index}].response"), mean_rating(item, index))
        for index, item in enumerate(completions)
    ]
    for (i, (one, first)), (j, (other, second)) in combinations(enumerate(rated), 2):
        if first == second:
            yield Tie("completions", f"{i} and {j}: mean rating {first:g}")
        else:
            preference = 1 if first > second else 2
            yield pair(turns, pictures, (one, other), "prompt", context.system, preference, f"{i}-{j}")


def mean_rating(completion: Mapping[str, Any], index: int) -> float:
    """Mean of the ratings over all aspects of one completion. Raises BadField where one is no number."""
    field = f"completions[{index}].annotations"
    annotations = completion.get("annotations")
    if not isinstance(annotations, Mapping) or not annotations:
        raise BadField(field, annotations, "must be an object: aspect → {Rating, Rationale}")
    ratings = []
    for aspect, given in annotations.items():
        rating = given.get("Rating") if isinstance(given, Mapping) else given
        try:
            ratings.append(float(rating))
        except (OverflowError, TypeError, ValueError):
            raise BadField(f"{field}.{aspect}", rating, "must have a Rating that is a number") from None
        if not abs(ratings[-1]) < 1e9:
            raise BadField(f"{field}.{aspect}", rating, "must have a Rating that is a finite number")
    return sum(ratings) / len(ratings)


def _completions(value: Any) -> list[Mapping[str, Any]]:
    """Completions one by one: files have a list of objects, tables an object of lists."""
    if isinstance(value, Mapping) and value and all(isinstance(item, list) for item in value.values()):
        if len({len(item) for item in value.values()}) != 1:
            raise BadField("completions", value, "its lists must be of one length")
        value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(item, Mapping) for item in value):
        raise BadField("completions", value, "must be a list of two or more objects")
    return value


def llava_critic(row: Mapping[str, Any], context: Context) -> Iterator[Pair | Tie]:
    """LLaVA-Critic's pairs: question and both responses within the human message, the verdict in words in gpt's."""
    turns, _ = turns_of(row.get("conversations"), "conversations")
    if [turn.role for turn in turns] != ["human", "gpt"]:
        raise BadField("conversations", [turn.role for turn in turns], "must be one question and one verdict")
    found = _COMPARISON.search(turns[0].text)
    if found is None:
        remedy = "must hold `Question: […]`, `The first response: […]` and `The second response: […]`"
        raise BadField("conversations[0].value", turns[0].text, remedy, "no comparison")
    outputs = tuple(
        answer_text(found[key], f"conversations[0].value, {key} response") for key in ("first", "second")
    )
    better = verdict(turns[1].text)
    if better is None:
        yield Tie("conversations[1].value", turns[1].text)
    else:
        question = asked(found["question"], "conversations[0].value")
        yield pair(question, row_pictures(row, "image"), outputs, "conversations", context.system, better)


def verdict(text: str) -> int | None:
    """1 or 2, the better response; None for a tie. Raises BadField where the text says neither, or both."""
    said = {
        number
        for number, which in ((1, _FIRST), (2, _SECOND))
        for pattern in _BETTER
        if re.search(rf"\b{pattern.format(which=which, noun=_NOUN)}", text, re.IGNORECASE)
    }
    if len(said) == 1:
        return said.pop()
    if not said and _TIE.search(text):
        return None
    how = "says that each is better" if said else "doesn't say which response is better"
    raise BadField("conversations[1].value", text, f"{how}; mend the row or leave it out")
