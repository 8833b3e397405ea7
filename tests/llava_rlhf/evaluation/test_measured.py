"""Score files as the table of a report: the numbers of `evaluate compare`, and by hand."""

from __future__ import annotations

import json

import pytest

from llava_rlhf import run_report
from llava_rlhf.evaluation.measured import measured
from tests.support.run_folders import GOOD, write_learning_run, write_scores
from tests.support.tiny_data import command_line


def test_the_interval_by_hand(tmp_path):
    """Of ten descriptions five stop hallucinating: the mean of ten draws from five −1 and five 0 is −X/10, X ~ B(10, ½),
    and P(X ≤ 1) = .011 < .025 < .055 = P(X ≤ 2): the interval is [−.8, −.2]."""
    before = write_scores(tmp_path / "before.json", [1] * 8 + [0] * 2)
    after = write_scores(tmp_path / "after.json", [1] * 3 + [0] * 7)
    found = measured(["before", "after"], [before, after])
    hallucination, recall = found.measures
    first, last = hallucination.cells
    assert (first.value, last.value) == (0.8, 0.3)
    assert last.difference.value == pytest.approx(-0.5)
    assert last.difference.interval == pytest.approx((-0.8, -0.2))
    assert hallucination.improved() is True and recall.improved() is None
    assert first.difference is None and "chair" in found.source and "10 of them" in found.source


def test_mistakes_are_refused_before_the_page_is_written(tmp_path):
    runs = [write_learning_run(tmp_path / name, GOOD) for name in ("a", "b", "c")]
    scores = write_scores(tmp_path / "scores.json", [1, 0])

    def refused(match, **flags):
        with pytest.raises(ValueError, match=match):
            run_report.prepare(command_line(**flags))

    refused("--scores .*1 given; name two files, before and after", run=runs[:1], scores=[scores])
    refused("--scores .*2 given; name one file for each run", run=runs, scores=[scores, scores])
    refused("a: is named twice", run=[runs[0], runs[0]])
    refused(r"missing.json: No such file", run=runs[:1], scores=[scores, tmp_path / "missing.json"])
    refused("no score file of", run=runs[:1], scores=[scores, runs[0] / "arguments.json"])
    other = write_scores(tmp_path / "fewer.json", [1])
    refused("not scored on the same items", run=runs[:1], scores=[scores, other])
    content = json.loads(scores.read_text()) | {"benchmark": "pope"}
    (tmp_path / "pope.json").write_text(json.dumps(content))
    refused(
        "--scores: files of chair and pope; give files of one",
        run=runs[:1],
        scores=[scores, tmp_path / "pope.json"],
    )
