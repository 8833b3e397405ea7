"""Gold of a description, and what the best of n is worth, by hand."""

from __future__ import annotations

import math

import pytest

from data_utils.shapes_world import PlacedObject, Scene
from llava_rlhf.tiny_world.best_of_n import best_numbers, by_prompt, compare_best, gold, scored_best


def test_gold_by_hand():
    scene = Scene(
        (PlacedObject("red-circle", 0, 0, 0, 5.0), PlacedObject("blue-square", 1, 0, 0, 5.0)), noise_seed=0
    )
    asked = {"question": "what is in the image?"}
    answer = "the image shows a red-circle, a red-circle and a green-cross."
    # recall 1/2, one false object, one repeat
    assert gold({**asked, "answer": answer}, scene) == {"gold": -0.5, "hallucination": 1.0, "recall": 0.5}
    off_topic = gold({**asked, "answer": "Yes, there is a red-circle."}, scene)
    assert off_topic == {"gold": -1.0, "hallucination": 0.0, "recall": 0.5}


def test_best_of_n_by_hand():
    worth = [[{"gold": float(g), "hallucination": 0.0, "recall": 1.0} for g in (1, 2, 3, 4)]]
    found = best_numbers([[4.0, 3.0, 2.0, 1.0]], worth)
    assert found["gold@1"] == pytest.approx(2.5)
    # The lowest gold of two: 1 in 3 of 6 choices, 2 in 2, 3 in 1.
    assert found["gold@2"] == pytest.approx((3 * 1 + 2 * 2 + 3) / 6)
    assert found["gold@4"] == pytest.approx(1)
    assert found["proxy@1"] == pytest.approx(0)
    assert found["proxy@4"] == pytest.approx(1.5 / math.sqrt(1.25))


def test_scored_answers_are_grouped_by_prompt():
    scene = Scene((PlacedObject("red-circle", 0, 0, 0, 5.0),), noise_seed=0)
    asked = {"question": "what is in the image?", "image": ["p"]}
    right, wrong = ("the image shows a red-circle.", "the image shows a blue-cross.")
    records = [
        {**asked, "id": name, "answer": answer, "score": score}
        for answer, score in ((right, 1.0), (wrong, 0.0))
        for name in "ab"
    ]
    assert [[one["id"] for one in group] for group in by_prompt(records)] == [["a", "a"], ["b", "b"]]
    found = scored_best(records, {"p": scene})
    assert (found["gold@1"], found["gold@2"]) == pytest.approx((0.25, 1.0))  # right 1, wrong -1/2
    assert (found["hallucination@1"], found["proxy@2"]) == pytest.approx((0.5, 1.0))


def test_judges_are_compared_on_the_same_answers():
    scene = Scene((PlacedObject("red-circle", 0, 0, 0, 5.0),), noise_seed=0)
    answers = ("the image shows a red-circle.", "the image shows a blue-cross.")

    def scored(*scores):
        return [
            {"question": "what is in the image?", "image": ["p"], "id": at // 2, "answer": answers[at % 2], "score": score}
            for at, score in enumerate(scores)
        ]  # fmt: skip

    judges = {"good": scored(1.0, 0.0, 3.0, 2.0), "fair": scored(1.0, 0.0, 2.0, 3.0)}
    found = compare_best(judges, {"p": scene})
    assert list(found.columns) == ["an answer", "best of 2, good", "best of 2, fair"]
    worth, hallucination, recall = ([cell.value for cell in measure.cells] for measure in found.measures)
    assert worth == pytest.approx([0.25, 1.0, 0.25])
    assert hallucination == pytest.approx([0.5, 0.0, 0.5])
    assert recall == pytest.approx([0.5, 1.0, 0.5])
    assert found.measures[0].cells[1].difference.value == pytest.approx(0.75)
    with pytest.raises(ValueError, match="good and other scored different answers"):
        compare_best({"good": judges["good"], "other": judges["fair"][:2]}, {"p": scene})
    left_out = {name: scores[:3] for name, scores in judges.items()}
    with pytest.raises(
        ValueError, match=r"different numbers of answers; .* a --response_len that leaves none out"
    ):
        compare_best(left_out, {"p": scene})
