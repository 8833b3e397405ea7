"""Multimodal RewardBench by hand: categories, divided by the name, and ties."""

from __future__ import annotations

import json

import pytest

from data_utils.schema import read_preferences
from llava_rlhf import make_dataset
from llava_rlhf.evaluation.benchmarks.multimodal_rewardbench import MultimodalRewardBench, part_of
from tests.llava_rlhf.evaluation.published_pairs_rows import scored_pair, values
from tests.support.tiny_data import command_line


@pytest.mark.parametrize(
    ("category", "identity", "part"),
    [
        ("safety", "PAIRS-1", "safety/bias"),
        ("safety", "hateful-1", "safety/toxicity"),
        ("reasoning", "MathVista-1", "reasoning/math"),
        ("reasoning", "EMMA-math-1", "reasoning/coding"),  # only the beginning counts
        ("vqa", "pairs-1", "vqa"),
        ("Safety", "pairs-1", "Safety"),
    ],
)
def test_parts_by_category_and_name(category, identity, part):
    assert part_of(category, identity) == part


def test_accuracy_by_hand(tmp_path):
    """A tie counts half; the better answer may be either of the two."""
    names = [("vqa", "v-1", "Output2"), ("vqa", "v-2", "Output1"), ("safety", "pairs-1", "Output2")]
    rows = [
        {
            "ID": name,
            "Category": category,
            "Text": "what?",
            "Output1": "yes",
            "Output2": "no",
            "Better": better,
        }
        for category, name, better in names
    ]
    (tmp_path / "all_data.json").write_text(json.dumps(rows))
    flags = command_line(source=tmp_path / "all_data.json", output_dir=tmp_path / "pairs")
    make_dataset.run(make_dataset.prepare(["import", *flags]))
    records, _ = read_preferences(tmp_path / "pairs" / "preferences.jsonl")
    assert [(record.id, record.preference) for record in records] == [("v-1", 2), ("v-2", 1), ("pairs-1", 2)]
    lines = [
        scored_pair("v-1", "no", "yes", 0.0),
        scored_pair("v-2", "yes", "no", 1.0),
        scored_pair("pairs-1", "no", "yes", -1.0),
    ]
    benchmark = MultimodalRewardBench(str(tmp_path / "all_data.json"))
    scores = benchmark.score(lines, False)
    found = values(scores, benchmark.metrics)
    assert {part: row["accuracy"] for part, row in found.items()} == {
        "all": 0.5,
        "vqa": 0.75,
        "safety/bias": 0,
    }
    assert scores.counts["ties"] == 1
    with pytest.raises(ValueError, match="id 'v-1' prefers the other response"):
        benchmark.score([scored_pair("v-1", "yes", "no", 0.0)], True)
