"""What a judge answered is on disk before it is used, and asked of nobody again."""

from __future__ import annotations

import pytest

from llava_rlhf.ppo.known_answers import KnownAnswers
from llava_rlhf.ppo.yes_no import YesNo
from llava_rlhf.runs.run_folder import read_json_lines
from tests.llava_rlhf.ppo.test_claim_scores import Counting


def test_what_was_answered_is_on_disk(tmp_path):
    file = tmp_path / "claims" / "answers_0.jsonl"
    questions = [YesNo("one", (), 0), YesNo("one", ("a.png",), 0), YesNo("three", (), 1)]
    first = Counting()
    found = KnownAnswers(first, file).probabilities(questions[:2], None)
    assert len(first.asked) == 2
    with file.open("a") as lines:
        lines.write('{"answers": {"half a')  # what a kill leaves
    again = Counting()
    known = KnownAnswers(again, file)
    assert known.probabilities(questions, None) == [*found, 5 / 6] and again.asked == questions[2:]
    assert len(read_json_lines(file)) == 2
    other = Counting()
    other.identity = "another judge"
    KnownAnswers(other, file).probabilities(questions, None)
    assert other.asked == questions
    file.write_text("{}\n")
    with pytest.raises(ValueError, match=r"answers_0.jsonl, line 1: no answers of a judge"):
        KnownAnswers(other, file)
