"""Rewards by sentence written out: every beginning of an answer is read again, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llava_rlhf.assembly.sentences import sentence_ends


def early_sentences(
    response: list[int], decode: Callable[[list[int]], str], score: Callable[[int], float]
) -> Iterator[tuple[int, float]]:
    """Of each sentence but the last: the token that ends it, and what it changed in the score.

    Args:
        response: ids.
        decode: ids → their text.
        score: of so many tokens of the response.
    """
    before, text = 0.0, decode(response).strip()
    for end in sentence_ends(text)[:-1]:
        counts = range(1, len(response) + 1)
        count = next(n for n in counts if decode(response[:n]).lstrip().startswith(text[:end]))
        found = score(count)
        yield count - 1, found - before
        before = found
