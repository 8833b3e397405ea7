"""Things that a response names, in the rows and on the page of a run with a fact reward."""

from __future__ import annotations

from llava_rlhf.reporting.run_data import read_run
from tests.llava_rlhf.reporting.test_run_report import ALL, Parsed, write_page
from tests.support.run_folders import rollout, write_lines


def test_things_that_a_response_names(tmp_path):
    said = [
        {"name": "dog", "start": 4, "end": 7, "verdict": "right"},
        {"name": "dog", "start": 5, "end": 8, "verdict": "wrong"},  # across another
        {"name": "cat", "start": 12, "end": 15, "verdict": "wrong"},
        {"name": "cat", "start": 12, "end": 99, "verdict": "wrong"},  # behind the response
        {"name": "cat", "start": 15, "end": 16, "verdict": "onclick"},
    ]
    facts = {"fact_mentions": 0.0, "fact_coverage": 0.5, "mentions": said}
    lines = [rollout(0, 3.0, response="🐕 a dog, 👩‍👩‍👧 cats", **facts), rollout(1, 1.0)]
    write_lines(tmp_path / "rollouts/000001.jsonl", lines)
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "objective/fact_coverage": 0.25}])
    first, second = sorted(read_run(tmp_path, ALL).rows, key=lambda row: row["id"])
    assert first["mentions"] == [(4, 7, "right"), (12, 15, "wrong")]
    assert (first["fact_mentions"], first["fact_coverage"]) == (0.0, 0.5)
    assert (second["mentions"], second["fact_mentions"]) == ([], None)
    page = Parsed(write_page(tmp_path))
    assert (
        "things named (or claims) + facts covered" in page.text
        and "fact_coverage" in page.content["script"][1]
    )
    assert page.data()["rows"][0]["mentions"] in ([], [[4, 7, "right"], [12, 15, "wrong"]])
