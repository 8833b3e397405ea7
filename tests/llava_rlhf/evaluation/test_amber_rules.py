"""AMBER's rules by hand, each oddity of the published script among them."""

from __future__ import annotations

import pytest

from llava_rlhf.evaluation.benchmarks.amber_rules import described, says

ASSOCIATION = {
    "sky": [],
    "man": ["person", "people"],
    "person": ["people", "man"],
    "ship": ["boat"],
    "dog": [],
    "cloud": [],
    "orange": ["tangerine"],
    "puppy": [],
}
SAFE = {"orange", "light"}


def count(nouns: str, truth: str, hallu: str = "", similar: tuple[tuple[str, str], ...] = ()):
    def alike(one: str, other: str) -> bool:
        return (one, other) in similar

    vocabulary = {*ASSOCIATION, *(word for words in ASSOCIATION.values() for word in words)}
    return described(nouns.split(), truth.split(), hallu.split(), ASSOCIATION, vocabulary, SAFE, alike)


def test_a_description_by_hand():
    # "table" is in no list: no mention. dog: neither there nor safe. cloud: imagined, and invented. boat stands for the ship.
    found = count("sky boat table dog cloud cloud", "sky ship man", "cloud sun".replace("sun", "puppy"))
    assert found == (
        5,
        3,
        2,
        3,
        1,
        2,
    )  # mentions, invented (dog, cloud twice), covered, truths, imagined, imaginable


@pytest.mark.parametrize(
    ("nouns", "truth", "expected"),
    [
        ("", "sky", (0, 0, 0, 1)),
        # A safe word counts as a mention, and covers nothing even where it is there.
        ("orange", "orange", (1, 0, 0, 1)),
        # What is associated with anything comes before the things themselves: "person" covers the man.
        ("person", "man person", (1, 0, 1, 2)),
        ("person people", "man person", (2, 0, 1, 2)),  # both cover him, none the person
        ("person man", "man person", (2, 0, 2, 2)),  # "man" covers the person
        ("person person", "man person", (2, 0, 1, 2)),  # always the first one
        ("people", "person man", (1, 0, 1, 2)),
        # A thing that stands there twice: one noun covers the first of them alone.
        ("ship", "ship ship", (1, 0, 1, 2)),
        ("ship boat", "ship ship", (2, 0, 1, 2)),
        ("Sky", "sky", (0, 0, 0, 1)),  # capital letters are other words
        ("tangerine", "", (1, 1, 0, 0)),  # words of associations are in the lists too
    ],
)
def test_what_covers_what(nouns, truth, expected):
    assert count(nouns, truth)[:4] == expected


def test_words_that_are_alike():
    # Like a thing that is there: covered and not invented, though it was imagined as well.
    found = count("puppy", "dog", "puppy", (("puppy", "dog"),))
    assert (found.invented, found.covered, found.imagined) == (0, 1, 1)
    # Like an imagined thing alone: it stands for that one, and is invented.
    found = count("puppy", "sky", "dog cloud", (("puppy", "dog"), ("puppy", "cloud")))
    assert (found.invented, found.covered, found.imagined) == (1, 0, 1)  # the first that is like it
    # One noun for two imagined things: itself, and an earlier one that it is like.
    assert count("puppy", "sky", "dog puppy", (("puppy", "dog"),)).imagined == 2
    # A thing that is there by its own name is not compared with imagined ones.
    assert count("dog", "dog", "puppy", (("dog", "puppy"),)).imagined == 0


@pytest.mark.parametrize(
    ("answer", "published", "first_word"),
    [
        ("Yes", True, True),
        ("No", False, False),
        ("yes", None, True),
        ("No.", None, False),
        (" No", None, False),
        ("No, there is none", None, False),
        ("**NO**", None, False),
        ("", None, None),
        ("I see no dog", None, None),
        ("Nothing", None, None),
        ("there is. Yes", None, None),
        ("1", None, None),
    ],
)
def test_what_a_yes_and_a_no_is(answer, published, first_word):
    assert says(answer, "published") is published
    assert says(answer, "first_word") is first_word
