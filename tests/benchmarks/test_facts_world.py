"""What the studies of facts are made of: parts of preferences, noisy captions, and what facts are worth in pairs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.facts.world import (
    drawn_pairs,
    labelled_pair,
    noisy_captions,
    pairs_needed,
    split_pairs,
)
from data_utils.shapes_world import mentioned_objects, sample_scene

ROWS = [{"image": f"{number // 2}.png", "id": number} for number in range(20)]


def test_held_out_pairs_are_of_other_pictures():
    pool, held_out = split_pairs(ROWS, 5)  # row 15 is of picture 7, as row 14 is
    assert [row["id"] for row in held_out] == list(range(14, 20))
    assert not {row["image"] for row in pool} & {row["image"] for row in held_out}
    assert pool + held_out == ROWS
    for count in (19, 20, 21):
        with pytest.raises(ValueError, match="there are 20 pairs"):
            split_pairs(ROWS, count)


def test_few_pairs_of_a_seed_are_among_the_many():
    few, many = (drawn_pairs(ROWS, count, seed=3) for count in (4, 12))
    assert few == many[:4]
    assert len({row["id"] for row in many}) == 12
    assert drawn_pairs(ROWS, 12, seed=4) != many
    with pytest.raises(ValueError, match="--pairs 21: there are 20"):
        drawn_pairs(ROWS, 21, seed=3)


@pytest.mark.parametrize("kind", ["missing", "wrong"])
def test_so_many_objects_of_noisy_captions_are_missing_or_wrong(kind):
    rng = np.random.default_rng(0)
    scenes = {f"{number}.png": sample_scene(rng) for number in range(600)}
    found = noisy_captions(scenes, kind, 0.3, seed=1)
    there = absent = objects = 0
    for image, scene in scenes.items():
        said = mentioned_objects(" ".join(found[image]))
        assert len(said) == len(set(said))
        right = [name for name in said if name in scene.names]
        there, absent, objects = (
            there + len(right),
            absent + len(said) - len(right),
            objects + len(scene.names),
        )
        assert mentioned_objects(" ".join(found[f"aok_{image}"])) == list(scene.names)
    assert there / objects == pytest.approx(0.7, abs=0.04)  # ± 3 standard errors of 1200 objects
    assert absent / objects == pytest.approx(0.3 if kind == "wrong" else 0.0, abs=0.04)
    assert (absent + there == objects) == (kind == "wrong")
    assert noisy_captions(scenes, kind, 0.0, seed=1) != found


def test_two_answers_become_a_preference():
    first, second = ({"id": "a", "answer": text, "image": ["p.png"], "question": "q?"} for text in "xy")
    assert [labelled_pair(first, second, of)["preference"] for of in ((1.0, 0.0), (0.0, 1.0))] == [1, 2]
    assert labelled_pair(first, second, (1.0, 1.0)) is None
    assert labelled_pair(first, first, (1.0, 0.0)) is None
    assert (
        labelled_pair({**first, "answer": " "}, second, (1.0, 0.0)) is None
    )  # there is nothing to learn to say


def test_pairs_needed_are_read_off_between_points_in_logarithms():
    curve = {100: 0.6, 1000: 0.8, 10000: 0.9}
    assert pairs_needed(curve, 0.7) == pytest.approx(10**2.5)
    assert pairs_needed(curve, 0.85) == pytest.approx(10**3.5)
    assert pairs_needed(curve, 0.5) == 100
    assert pairs_needed(curve, 0.91) == float("inf")
    assert pairs_needed({100: 0.6, 1000: 0.5, 10000: 0.9}, 0.7) == pytest.approx(10**3.5)
