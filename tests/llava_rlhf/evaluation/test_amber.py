"""AMBER by hand on our own small folder: its files, its parts, and no as the positive class."""

from __future__ import annotations

import pytest

from llava_rlhf.evaluation.benchmarks.amber import Amber
from llava_rlhf.evaluation.benchmarks.words import ListedWords
from tests.llava_rlhf.evaluation.amber_files import ANNOTATIONS, write_amber
from tests.llava_rlhf.evaluation.published_pairs_rows import values

# existence, state, number, action, relation: first those whose answer is yes, then those whose answer is no
SAID = ["Yes", "No", "Yes", "Yes.", "Yes", "No", "No", "Yes", "No", "no"]


def answers(texts: list[str]) -> list[dict]:
    return [{"id": str(row["id"]), "answer": text} for row, text in zip(ANNOTATIONS, texts, strict=True)]


def test_numbers_by_hand(tmp_path):
    amber = Amber(write_amber(tmp_path), ListedWords)
    # 1: dogs (there), bush (stands for the tree), clouds (imagined, invented), oranges (safe): 4 mentions, 1 invented
    # 2: a dog (imagined, invented), no man: 1 mention, 1 invented
    texts = ["Two dogs beside a bush under clouds, and oranges.", "A Dog at a window", *SAID]
    found = values(amber.score(answers(texts), False), amber.metrics)
    assert list(found) == ["all", "generative", "existence", "state", "number", "action", "relation"]
    described = {"chair": 2 / 5, "cover": 2 / 3, "hal": 2 / 2, "cog": 2 / 3}
    # no was said: state (wrong), existence, state, action (right); "Yes." and "no" are neither. 5 truths are no.
    asked = {
        "accuracy": 6 / 10,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": 2 * 3 / (4 + 5),
        "unclear": 2 / 10,
        "affirmed": 3 / 5,
    }
    # states, numbers and actions: right are number-yes, state-no, action-no; no said 3 times, 3 truths are no, found 2
    attributes = {"attribute_accuracy": 3 / 6, "attribute_f1": 2 * 2 / (3 + 3)}
    assert found["all"] == pytest.approx({**described, **asked, **attributes})
    assert {name: found["generative"][name] for name in described} == pytest.approx(described)
    assert found["generative"]["f1"] is None and found["existence"]["chair"] is None
    assert found["existence"]["f1"] == 1 and found["relation"]["recall"] == 0
    assert (found["number"]["precision"], found["number"]["recall"]) == (None, 0)  # no was never said


def test_the_papers_score_and_another_reading(tmp_path):
    amber = Amber(write_amber(tmp_path), ListedWords, "first_word")
    texts = ["dogs and clouds", "a man", *SAID]
    scores = amber.score(answers(texts), False)
    found = values(scores, amber.metrics)["all"]
    assert found["unclear"] == 0 and found["accuracy"] == 8 / 10
    assert scores.counts["amber_score"] == pytest.approx((1 - 1 / 3 + 2 * 4 / (5 + 5)) / 2)
    assert scores.conditions["words"] == "lists" and scores.conditions["reading"] == "first_word"


def test_answers_of_the_published_layout(tmp_path):
    amber = Amber(write_amber(tmp_path), ListedWords)
    theirs = [{"id": row["id"], "response": "No"} for row in ANNOTATIONS]
    assert amber.score(amber.own_layout(theirs), False).counts["missing"] == 0
    ours = answers(["No"] * len(ANNOTATIONS))
    assert amber.own_layout(ours) == ours


def test_descriptions_alone_have_no_common_score(tmp_path):
    amber = Amber(write_amber(tmp_path), ListedWords)
    scores = amber.score(answers(["a dog"] * len(ANNOTATIONS))[:2], True)
    assert scores.counts == {"missing": 10}


def test_words_of_the_lists():
    words = ListedWords({"man", "bush", "child", "air-conditioning", "TV", "leave"})
    text = "Men, bushes; the CHILDREN's air-conditioning and TVs, leaves. A chairman"
    assert [
        word
        for word in words.nouns(text)
        if word in ("man", "bush", "child", "air-conditioning", "TV", "leave")
    ] == [
        "man",
        "bush",
        "child",
        "air-conditioning",
        "TV",
        "leave",
    ]
    assert not words.alike("man", "man")
