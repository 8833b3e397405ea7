"""The quality of a judge by hand, on seven pairs."""

from __future__ import annotations

import json
import math

import pytest
from scipy.stats import kendalltau, spearmanr

from llava_rlhf.evaluation.benchmarks import scored_pairs
from llava_rlhf.evaluation.benchmarks.scored_pairs import ScoredPair
from llava_rlhf.evaluation.judged_pairs import judge_quality
from tests.support.judged import PAIRS, judged_pair, write_pairs


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_numbers_by_hand(tmp_path):
    quality = judge_quality(str(write_pairs(tmp_path / "s.jsonl")), None, 30)
    assert list(quality.table) == ["all", "GENERAL", "NO_IN_YESNO", "A_IN_ABCD"]
    everything = quality.table["all"]
    # right: 0, 1, 2, 5; half: 6
    assert everything["accuracy"]["value"] == pytest.approx(4.5 / 7)
    assert everything["margin"]["value"] == pytest.approx((2 + 1 + 1 - 3 - 1 + 0.5) / 7)
    assert (everything["accuracy_longer"]["value"], everything["accuracy_shorter"]["value"]) == (
        1,
        pytest.approx(1 / 3),
    )
    assert quality.table["GENERAL"]["accuracy"]["value"] == 3 / 4
    # A bin of confidence has one pair of type A: sure by sigmoid(3), and wrong.
    assert quality.calibration_error["A_IN_ABCD"] == pytest.approx(sigmoid(3))
    # all: [.5, .6): tie; [.6, .7): right; [.7, .8): right, right, wrong; [.8, .9): right; [.9, 1]: wrong
    gaps = [abs(0.5 - 0.5), 1 - sigmoid(0.5), 3 * abs(2 / 3 - sigmoid(1)), 1 - sigmoid(2), sigmoid(3)]
    assert quality.calibration_error["all"] == pytest.approx(sum(gaps) / 7)
    assert quality.bins == [
        (0.5, 0.5, 1),
        (pytest.approx(sigmoid(0.5)), 1.0, 1),
        (pytest.approx(sigmoid(1)), pytest.approx(2 / 3), 3),
        (pytest.approx(sigmoid(2)), 1.0, 1),
        (pytest.approx(sigmoid(3)), 0.0, 1),
    ]
    assert quality.ties == 1 and quality.pairs == 7


def test_each_line_is_read_once(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        scored_pairs, "ScoredPair", lambda *fields: made.append(fields) or ScoredPair(*fields)
    )
    judge_quality(str(write_pairs(tmp_path / "s.jsonl")), None, 30)
    assert len(made) == len(PAIRS)


def test_length_by_hand(tmp_path):
    lengths = judge_quality(str(write_pairs(tmp_path / "s.jsonl")), None, 30).lengths
    # Of six pairs people prefer the longer response in three; the model picks it in those and in 3 and 4.
    assert (lengths.pairs, lengths.people_longer, lengths.model_longer) == (6, 0.5, 5 / 6)
    margins, longer = [2, 1, 1, -3, -1, 0.5], [5, 5, 5, -5, -5, -5]
    both = [margins + [-m for m in margins], longer + [-n for n in longer]]
    assert lengths.correlation == pytest.approx(spearmanr(*both).statistic) and lengths.correlation > 0.5
    assert kendalltau(*both).statistic > 0  # another coefficient agrees in sign


def test_swapped_responses_change_nothing(tmp_path):
    swapped = [
        pair | {"responses": pair["responses"][::-1], "scores": pair["scores"][::-1], "preference": 1}
        for pair in PAIRS
    ]
    first = judge_quality(str(write_pairs(tmp_path / "a.jsonl")), None, 7)
    other = judge_quality(str(write_pairs(tmp_path / "b.jsonl", swapped)), None, 7)
    assert other.table == first.table and other.lengths == first.lengths and other.worst == first.worst


def test_the_worst_pairs_come_first_with_captions_by_their_type(tmp_path):
    captions = {"red.png": ("a red thing",), "aok_red.png": ("because it is red",)}
    quality = judge_quality(str(write_pairs(tmp_path / "s.jsonl")), captions, 3)
    assert [pair.row for pair in quality.worst] == [3, 4, 6]
    first, second, _ = quality.worst
    assert (first.captions, second.captions) == (["because it is red"], ["a red thing"])
    assert first.preferred == {"text": "short", "score": -3.0, "length": 5}
    assert first.other == {"text": "a long one", "score": 0.0, "length": 10}
    assert quality.notes == []
    blind = judge_quality(str(tmp_path / "s.jsonl"), {"blue.png": ()}, 3)
    assert blind.notes == ["3 of the worst pairs have no captions in --image_to_caption_file."]


def test_captions_that_the_run_names_and_that_have_moved_are_told(tmp_path):
    (note,) = judge_quality(str(write_pairs(tmp_path / "s.jsonl")), None, 1, "gone/captions.json").notes
    assert note.startswith("The run's captions, gone/captions.json, are not there any more")


def test_parts_by_length_and_what_is_always_alike(tmp_path):
    # Ten pairs: length difference -5 .. 4 (0 too), right where it is positive.
    pairs = [judged_pair(n, "p" * (10 + n - 5), "q" * 10, 1.0 if n > 5 else -1.0) for n in range(10)]
    quality = judge_quality(str(write_pairs(tmp_path / "s.jsonl", pairs)), None, 1)
    assert quality.by_length == [(n - 5.0, float(n > 5)) for n in range(10)]
    alike = [judged_pair(n, f"{n}a", f"{n}b", 0.0) for n in range(10)]
    quality = judge_quality(str(write_pairs(tmp_path / "t.jsonl", alike)), None, 1)
    assert quality.by_length == [] and quality.lengths.pairs == 0 and quality.lengths.correlation is None


def test_who_scored_what_is_said_where_it_is_known(tmp_path):
    path = write_pairs(tmp_path / "s.jsonl")
    assert judge_quality(str(path), None, 1).source == str(path)
    (tmp_path / "s.jsonl.summary.json").write_text(
        json.dumps({"reward_model": "runs/r", "dataset": "d.json"})
    )
    assert judge_quality(str(path), None, 1).source == "runs/r on d.json"
