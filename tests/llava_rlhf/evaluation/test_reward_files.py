"""Best of n against brute force, and the accuracy of a reward model by hand."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from llava_rlhf.evaluation.benchmarks.reward_files import BestOfN, RewardAccuracy, expected_best
from llava_rlhf.evaluation.score_files import summarise


@pytest.mark.parametrize(
    "scores", [[3.0], [2.0, -1.0], [1.0, 1.0, 4.0], [0.3, -2.0, 5.0, 0.1, 0.3, 7.5, -4.0]]
)
def test_expected_best_is_the_mean_over_all_choices(scores):
    for n in range(1, len(scores) + 1):
        choices = [max(choice) for choice in itertools.combinations(scores, n)]
        assert expected_best(scores, n) == pytest.approx(np.mean(choices), rel=1e-12)


def test_expected_best_of_many_answers():
    # Of 0 … 4095, the mean highest of 64 without replacement is 64 · 4097 / 65 − 1.
    assert expected_best(np.arange(4096.0), 64) == pytest.approx(64 * 4097 / 65 - 1, rel=1e-9)


def answers(scores: list[list[float]], **changes) -> list[dict]:
    return [
        {"prompt_row": row, "image": ["a.png"], "question": f"what {row}?", "sample": number, "score": score}
        | changes
        for row, group in enumerate(scores)
        for number, score in enumerate(group)
    ]


def test_the_curve_by_hand(tmp_path):
    (tmp_path / "a.jsonl.summary.json").write_text(json.dumps({"reward_model": "runs/reward"}))
    benchmark = BestOfN(str(tmp_path / "a.jsonl"))
    scores = benchmark.score(answers([[1, 2, 5], [0, 0, 3]]), False)
    assert benchmark.metrics["best_of_1"] == "mean reward"
    assert benchmark.metrics["best_of_2"] == "expected highest score of 2 of the 3 answers"
    # best of 2 of 1 2 5: (2 + 5 + 5) / 3 = 4; of 0 0 3: (0 + 3 + 3) / 3 = 2
    found = summarise(scores.items, list(benchmark.metrics), 100, 0)["all"]
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(
        {"best_of_1": (8 / 3 + 1) / 2, "best_of_2": 3, "best_of_3": 4}
    )
    assert scores.conditions == {"reward_model": "runs/reward", "samples": 3}


def test_prompts_need_the_same_number_of_answers():
    with pytest.raises(ValueError, match=r"prompts have \[1, 2\] answers each"):
        BestOfN("").score(answers([[1, 2], [3]]), False)
    with pytest.raises(ValueError, match="line 1: field 'score' is None; score the file"):
        BestOfN("").score(answers([[1]], score=None), False)
    with pytest.raises(ValueError, match="prompt 7 has another question"):
        BestOfN("").score(answers([[1], [2]], prompt_row=7), False)


def pair(row: int, margin: float, **changes) -> dict:
    return {"row": row, "margin": margin, "responses": ["a", f"b{row}"], "preference": 1} | changes


def test_accuracy_by_hand():
    pairs = [pair(0, 2.0, answer_type="GENERAL"), pair(1, -1.0, answer_type="GENERAL")]
    pairs += [pair(2, 0.0, answer_type="NO_IN_YESNO")]
    scores = RewardAccuracy().score(pairs, False)
    found = summarise(scores.items, ["accuracy", "margin"], 100, 0)
    assert [entry["accuracy"]["value"] for entry in found.values()] == [0.5, 0.5, 0.5]
    assert [entry["margin"]["value"] for entry in found.values()] == pytest.approx([1 / 3, 0.5, 0])
    assert scores.counts["pairs"] == 3
    with pytest.raises(ValueError, match="row 1 comes twice"):
        RewardAccuracy().score([pair(1, 0.5), pair(1, 0.5)], False)
    with pytest.raises(ValueError, match="field 'margin' is None"):
        RewardAccuracy().score([pair(1, None)], False)


def test_pairs_with_other_responses_are_other_items():
    first, second = (
        RewardAccuracy().score([pair(0, 1.0, responses=["a", text])], False).items[0].id for text in "bc"
    )
    assert first != second


def test_a_margin_that_is_no_number_is_refused():
    row = {"row": 0, "responses": ["a", "b"], "margin": float("nan")}
    with pytest.raises(ValueError, match="line 1: field 'margin' is nan"):
        RewardAccuracy().check([row], False)


def test_a_summary_of_another_kind_is_named(tmp_path):
    (tmp_path / "a.jsonl.summary.json").write_text("[]")
    rows = [{"score": 1.0, "question": "q", "id": "1"}]
    with pytest.raises(ValueError, match=r"a.jsonl.summary.json: no summary of llava_rlhf.score"):
        BestOfN(str(tmp_path / "a.jsonl")).check(rows, False)
