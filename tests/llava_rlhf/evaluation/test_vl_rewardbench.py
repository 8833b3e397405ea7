"""VL-RewardBench by hand: groups, overall and macro average, ties, rows that come twice; and what is asked of every pair."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf import evaluate, make_dataset
from llava_rlhf.evaluation.benchmarks.reward_files import RewardAccuracy
from llava_rlhf.evaluation.benchmarks.vl_rewardbench import VLRewardBench, group_of
from llava_rlhf.evaluation.score_records import describe_pairs, json_line, with_pair_scores
from tests.llava_rlhf.evaluation.published_pairs_rows import scored_pair, values
from tests.llava_rlhf.importing.cases import write_pictures
from tests.support.tiny_data import command_line

BETTER, WORSE = "a cat.", "a black dog."


def row(identity: str, better: int = 0, **changes: Any) -> dict[str, Any]:
    """A row of the file; the better response is at place `better`."""
    responses = [BETTER, WORSE] if better == 0 else [WORSE, BETTER]
    ranking = [0, 1] if better == 0 else [1, 0]
    return {"id": identity, "query": "what?", "response": responses, "human_ranking": ranking} | changes


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


@pytest.mark.parametrize(
    ("identity", "group"),
    [
        ("RLAIF-V-14", "hallucination"),
        ("RLHF-V-0", "hallucination"),
        ("hallucination_pair-7", "hallucination"),
        ("mathverse_12", "reasoning"),
        ("MMMU-val-3", "reasoning"),
        ("wildvision-battle_9", "general"),
        ("LRVInstruction-000000007746", "general"),
        ("rlaifv-1", "general"),  # only the whole beginning counts
        ("", "general"),
    ],
)
def test_groups_are_told_by_the_beginning_of_the_name(identity, group):
    assert group_of(identity) == group


def test_overall_and_macro_average_by_hand(tmp_path):
    """general: 1 of 1; hallucination: 1 of 3 and a tie; reasoning: 0 of 1."""
    names = ["VLF-1", "RLAIF-V-1", "RLAIF-V-2", "RLHF-V-3", "RLHF-V-4", "mmmu_1"]
    rows = [row(name, number % 2) for number, name in enumerate(names)]
    file = write(tmp_path / "data.jsonl", *rows, rows[1])  # the second one comes twice, and counts once
    margins = [0.5, 1.0, -1.0, -2.0, 0.0, -0.1]
    lines = [scored_pair(name, BETTER, WORSE, margin) for name, margin in zip(names, margins, strict=True)]
    benchmark = VLRewardBench(file)
    scores = benchmark.score(lines[::-1], False)
    found = values(scores, benchmark.metrics)
    assert {part: row["accuracy"] for part, row in found.items()} == pytest.approx(
        {"all": 2.5 / 6, "general": 1, "hallucination": 1.5 / 4, "reasoning": 0}
    )
    assert found["all"]["macro"] == pytest.approx((1 + 1.5 / 4 + 0) / 3)
    assert found["hallucination"]["macro"] == pytest.approx(1.5 / 4)
    counts = scores.counts
    assert (counts["missing"], counts["repeated"], counts["ties"]) == (0, 1, 1)
    # Without the general group the mean is that of the two that are there.
    left = benchmark.score(lines[1:], True)
    assert left.counts["missing"] == 1
    assert values(left, benchmark.metrics)["all"]["macro"] == pytest.approx((1.5 / 4 + 0) / 2)


def test_length_and_calibration_by_hand():
    """Margins of ln 3 and ln 9: sure to 3/4 and 9/10."""
    lines = [
        scored_pair("1", "short", "much longer", math.log(3)),
        scored_pair("2", "short", "much longer", -math.log(9), row=1),
        scored_pair("3", "much longer", "short", math.log(9), row=2),
        scored_pair("4", "a cat", "a dog", 0.0, row=3),
        scored_pair("5", "short", "much longer", math.log(3), row=4),
    ]
    scores = RewardAccuracy().score(lines, False)
    found = values(scores, RewardAccuracy.metrics)["all"]
    assert found["accuracy"] == pytest.approx(3.5 / 5)
    assert (found["accuracy_shorter"], found["accuracy_longer"]) == (2 / 3, 1.0)
    assert found["brier"] == pytest.approx((2 * 0.25**2 + 0.9**2 + 0.1**2 + 0.5**2) / 5)
    assert found["overconfidence"] == pytest.approx((2 * 0.75 + 2 * 0.9 + 0.5) / 5 - 3.5 / 5)
    # Bins: 0.5 (a tie, ½ right), 0.75 (two, both right), 0.9 (two, one right).
    assert scores.counts["calibration_error"] == pytest.approx((0 + 2 * 0.25 + 2 * abs(0.5 - 0.9)) / 5)


def test_a_margin_beyond_all_bounds_has_numbers():
    found = values(RewardAccuracy().score([scored_pair("1", "a", "bb", -1e9)], False), RewardAccuracy.metrics)
    assert found["all"]["brier"] == 1 and found["all"]["accuracy_longer"] is None


def test_from_the_published_file_to_numbers(tmp_path, capsys):
    """Import, score, evaluate; the scores are made up."""
    rows = [row("RLHF-V-1", image_path="a.png"), row("mathverse_2", 1, image_path="b.png")]
    file = write(tmp_path / "data.jsonl", *rows)
    folder = tmp_path / "pairs"
    flags = {"source": file, "image_folder": write_pictures(tmp_path / "pictures"), "output_dir": folder}
    make_dataset.run(make_dataset.prepare(["import", *command_line(**flags)]))
    records = describe_pairs(str(folder / "preferences.jsonl"), [0, 1])
    scores = [[1.0, 0.0], [1.0, 0.0]]
    lines = [with_pair_scores(record, pair) for record, pair in zip(records, scores, strict=True)]
    answers = tmp_path / "scores.jsonl"
    answers.write_text("".join(map(json_line, lines)))
    flags = {"benchmark": "vl_rewardbench", "benchmark_files": file, "answers": answers, "resamples": 100}
    output = tmp_path / "numbers.json"
    evaluate.run(evaluate.prepare(["score", *command_line(**flags, output_file=output)]))
    table = json.loads(output.read_text())["table"]
    assert [table[part]["accuracy"]["value"] for part in ("all", "hallucination", "reasoning")] == [0.5, 1, 0]
    # Both are sure to sigmoid(1) = 0.7311, and one of the two is right.
    assert "calibration_error: 0.231\n" in capsys.readouterr().out
    assert "position consistency" in json.loads(output.read_text())["metrics"]["accuracy"]
