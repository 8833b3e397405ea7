"""Where sentences end, by hand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_rlhf.assembly.sentences import sentence_ends

# Texts with a bar behind each sentence.
TEXTS = (
    "A cat.| A dog!| Is it?| Well…| So... | he said",
    "one line\n|another\n|\nand the last",
    "It is 3.5 m high.| Version 2.0.1 of file.txt.| Nos. 5 and no. 6.| No.| Yes.",
    "Mr. Smith and Dr. J. Doe, e.g. in the U.S. or at 5 p.m. today, etc. and so on.| I.e. all.",
    "1. A cat\n|2. A dog.|\n3. None",
    "He said “Yes.”| Then 'No!'| (Really.)| \"Wow?!\"| So did I.| End",
    "猫が好き。|犬も！|「はい。」|本当？|終わり",
    "Ein Café für alle!| Ça va?| Ναι.| 🐈 sits. 🐕",
    "How many?! 42.",
    "3.5",
    "...",
    "no mark at all",
)


@pytest.mark.parametrize("marked", TEXTS)
def test_sentences_by_hand(marked):
    marked = marked.replace("... | ", "...| ")
    text = marked.replace("|", "")
    found = sentence_ends(text)
    cut = "|".join(text[start:end] for start, end in zip([0, *found], found, strict=False))
    assert cut == marked


def test_an_empty_text_has_no_sentence():
    assert sentence_ends("") == []


@given(st.text(alphabet="aB1.!?… \n\"'”)。e🐈", max_size=40))
def test_sentences_make_up_the_text(text):
    found = sentence_ends(text)
    assert found == sorted(set(found)) and (found[-1:] == [len(text)]) == bool(text)
    pieces = [text[start:end] for start, end in zip([0, *found], found, strict=False)]
    assert len(pieces) == 1 or all(any(map(str.isalpha, piece)) for piece in pieces)


@pytest.mark.parametrize("piece", ["1.\n", "a. ", "(", "word ", "... "])
def test_long_texts_take_no_long_time(piece):
    started = time.process_time()
    sentence_ends(piece * 20_000)
    assert time.process_time() - started < 2.0
