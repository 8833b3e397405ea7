"""MM-RLHF-RewardBench by hand: parts, ties, ACC+ of whole questions."""

from __future__ import annotations

import json

import pytest

from llava_rlhf.evaluation.benchmarks.mm_rlhf_rewardbench import MMRLHFRewardBench, part_of
from llava_rlhf.importing.formats import guess
from tests.llava_rlhf.evaluation.published_pairs_rows import scored_pair, values


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("image/long/1.png", "long"),
        ("short_long/1.png", "long"),  # the first word of the list, not of the path
        ("mcq/short.png", "mcq"),
        ("videos/7", "video"),
        ("Long/1.png", "other"),
        ("", "other"),
    ],
)
def test_parts_are_told_by_the_path(path, part):
    assert part_of(path) == part


def test_accuracy_and_acc_plus_by_hand(tmp_path):
    """Question 1: both right; 2: a tie, which is wrong, beside a right one; 3: right alone, of no part."""
    rows = [
        {"id": 1, "image": "long/1.png", "rejected": "a dog."},
        {"id": 1, "image": "long/1.png", "rejected": "a bird."},
        {"id": "2", "video": "short/2", "rejected": "a dog."},
        {"id": "2", "video": "short/2", "rejected": "a bird."},
        {"id": 3, "image": "3.png", "rejected": "a dog."},
    ]
    rows = [{"prompt": "what?", "chosen": "a cat.", "chosen_reason": "", **row} for row in rows]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert guess({**rows[0], "rejected_reason": ""}, "here") == "trl"  # how its pairs are imported
    margins = [0.5, 0.1, 0.0, 2.0, 1.0]
    lines = [
        scored_pair(str(row["id"]), "a cat.", row["rejected"], margin)
        for row, margin in zip(rows, margins, strict=True)
    ]
    benchmark = MMRLHFRewardBench(str(tmp_path / "bench.jsonl"))
    scores = benchmark.score(lines, False)
    found = values(scores, benchmark.metrics)
    assert {part: (row["accuracy"], row["acc_plus"]) for part, row in found.items()} == {
        "all": (4 / 5, 2 / 3),
        "long": (1, 1),
        "short": (1 / 2, 0),
        "other": (1, 1),
    }
    assert scores.counts["ties"] == 1
    # A question of which a pair has no score is neither right nor wrong.
    left = values(benchmark.score(lines[1:], True), benchmark.metrics)["all"]
    assert (left["accuracy"], left["acc_plus"]) == (3 / 4, 1 / 2)
