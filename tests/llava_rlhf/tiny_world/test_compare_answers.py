"""Two models on the same pictures, against numbers worked out by hand and against `evaluate compare`."""

from __future__ import annotations

import pytest

from llava_rlhf.evaluation.benchmarks.items import ItemScore, Scores
from llava_rlhf.evaluation.comparison import compare
from llava_rlhf.evaluation.score_files import ScoreFile
from llava_rlhf.tiny_world.compare_answers import RESAMPLES, SEED, compare_answers
from llava_rlhf.tiny_world.score_answers import answer_values
from tests.llava_rlhf.tiny_world.test_tiny_world_tools import BOTH, DESCRIBE, ONE_FALSE, SCENE, YES, record

SCENES = {f"{place}.png": SCENE for place in range(10)}


def answers(false: int) -> list[dict]:
    """A description of each picture, of which so many are false, and a yes/no question on the first two."""
    made = [record(str(place), DESCRIBE, ONE_FALSE if place < false else BOTH) for place in range(10)]
    made += [record(f"yes {place}", YES, "Yes." if false < 5 else "No.") for place in range(2)]
    pictures = [*SCENES, *list(SCENES)[:2]]
    return [{**one, "image": [picture]} for one, picture in zip(made, pictures, strict=True)]


def test_by_hand():
    """As in `tests/llava_rlhf/evaluation/test_measured.py`; a picture without a yes/no question says nothing of them."""
    found = compare_answers(("SFT", "PPO"), (answers(8), answers(3)), SCENES)
    measures = {measure.name: measure.cells for measure in found.measures}
    before, after = measures["hallucination"]
    assert (before.value, after.value) == (0.8, 0.3)
    assert after.difference.interval == pytest.approx((-0.8, -0.2))
    assert [cell.value for cell in measures["yes_no_accuracy"]] == [0.0, 1.0]
    assert measures["choice_accuracy"][1].difference.value is None
    assert found.sentence() == "hallucinating descriptions .800 → .300 (−.500, 95 % interval [−.800, −.200])"


def test_the_numbers_are_those_of_evaluate_compare():
    groups = {"tiny_world": {}}
    for name, false in (("SFT", 8), ("PPO", 3)):
        items = [
            ItemScore(
                one["id"], "all", one["image"][0], {"recall": (values.get("recall", 0), "recall" in values)}
            )
            for one in answers(false)
            for values in [answer_values(one, SCENE)]
        ]
        groups["tiny_world"][name] = ScoreFile("tiny_world", {"recall": ""}, "", None, Scores(items, {}, {}))
    row = list(compare(groups, RESAMPLES, SEED))[1]
    found = compare_answers(("SFT", "PPO"), (answers(8), answers(3)), SCENES).measures[1].cells[1]
    assert (found.value, found.interval, found.difference) == (row.value, row.interval, row.difference)


def test_other_questions_are_refused():
    with pytest.raises(ValueError, match="SFT and PPO answered different questions"):
        compare_answers(("SFT", "PPO"), (answers(8), answers(3)[1:]), SCENES)
