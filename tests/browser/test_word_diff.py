"""Which words of two answers are marked."""

from __future__ import annotations

import random

import pytest

from llava_rlhf.pages.word_diff import differing_words


def marked(pieces) -> list[str]:
    return [text for text, differs in pieces if differs]


@pytest.mark.parametrize(
    ("first", "second", "ours", "theirs"),
    [
        ("a red bus, two dogs", "A blue bus; two dogs.", ["red"], ["blue"]),
        ("Two dogs.", "two dogs", [], []),
        ("a bus", "a bus and a cat", [], ["and a cat"]),
        ("there is a red-circle", "there is a red-square", ["red-circle"], ["red-square"]),
        ("it costs 1,000", "it costs 1,500", ["1,000"], ["1,500"]),
        ("", "a cat", [], ["a cat"]),
        ("* **one**\n* two", "* **one**\n* three", ["two"], ["three"]),
        ("这是一只猫", "这是一只狗", ["猫"], ["狗"]),  # no spaces between words
        ("猫cat", "猫dog", ["cat"], ["dog"]),
        ("Straße", "STRASSE", [], []),
        ("…", "!", [], []),
    ],
)
def test_words_that_differ_and_no_others(first, second, ours, theirs):
    left, right = differing_words(first, second)
    assert (marked(left), marked(right)) == (ours, theirs)


def test_pieces_join_to_the_text_to_the_letter():
    rng = random.Random(0)
    signs = ["a", "B", "dog", " ", "  ", "\n", "-", "'", "<b>", "猫", "é", "1,0", "&amp;", "\u200d", "़"]
    for _ in range(300):
        texts = ["".join(rng.choices(signs, k=rng.randrange(40))) for _ in range(2)]
        pieces = differing_words(*texts)
        assert ["".join(text for text, _ in one) for one in pieces] == texts
        assert all(text for one in pieces for text, _ in one)


def test_very_long_answers_are_not_compared():
    long, other = "a " * 1000, "b " * 1001
    assert differing_words(long, other) == ([(long, False)], [(other, False)])
    assert differing_words(long, other[2:]) == (
        [(long.strip(), True), (" ", False)],
        [(other[2:].strip(), True), (" ", False)],
    )
