"""Files of a run folder."""

from __future__ import annotations

import logging
import os

import pytest

from llava_rlhf.runs.run_folder import (
    JsonLines,
    delete_rollouts,
    read_json_lines,
    write_rollouts,
    write_text_whole,
)


def steps(path):
    return [line["step"] for line in read_json_lines(path)]


def test_lines_are_appended_and_read_back(tmp_path):
    file = JsonLines(tmp_path / "deep" / "metrics.jsonl")
    file.append({"step": 1, "name": "Größe"})
    file.append({"step": 2, "loss": 0.1})
    assert read_json_lines(file.path) == [{"step": 1, "name": "Größe"}, {"step": 2, "loss": 0.1}]


def test_resuming_removes_the_lines_of_steps_that_are_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path)
    for step in (1, 2, 3, 3):
        first.append({"step": step})
    again = JsonLines(path, kept=2)
    again.append({"step": 3})
    assert steps(path) == [1, 2, 3]


def test_starting_afresh_empties_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    JsonLines(path).append({"step": 1})
    JsonLines(path)
    assert steps(path) == []


def test_a_last_line_cut_off_by_a_kill_is_left_out_with_a_message(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    with caplog.at_level(logging.WARNING):
        assert steps(path) == [1, 2]
    assert "cut off" in caplog.text
    JsonLines(path, kept=5).append({"step": 6})
    assert steps(path) == [1, 2, 6]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: is not JSON"):
        read_json_lines(path)


def test_a_last_line_cut_off_within_a_character_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes('{"step": 1}\n{"name": "ö'.encode()[:-1])
    assert steps(path) == [1]
    JsonLines(path, kept=5).append({"step": 2})
    assert steps(path) == [1, 2]


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path):
    rows = [{"response": "one\u2028two\u2029three\x85four"}, {"response": ""}]
    write_rollouts(tmp_path, 1, rows)
    path = tmp_path / "rollouts" / "000001.jsonl"
    assert read_json_lines(path) == rows
    assert JsonLines(path, kept=2).lines == 2
    assert read_json_lines(path) == rows


def test_a_missing_file_is_empty(tmp_path):
    assert read_json_lines(tmp_path / "absent.jsonl") == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_text_whole(path, "old")

    def fail(*names):
        raise OSError("killed before the rename")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="killed"):
        write_text_whole(path, "new")
    assert path.read_text() == "old"


def test_rollouts_lie_in_a_file_for_each_step(tmp_path):
    write_rollouts(tmp_path, 7, [{"id": "a", "response": "naïve"}, {"id": "b"}])
    assert read_json_lines(tmp_path / "rollouts" / "000007.jsonl") == [
        {"id": "a", "response": "naïve"},
        {"id": "b"},
    ]


def test_rollouts_of_later_steps_are_deleted_and_nothing_else(tmp_path):
    delete_rollouts(tmp_path, 0)  # there is no folder yet
    for step in (1, 2, 3, 10, 1234567):  # 10 comes after 2 as a number
        write_rollouts(tmp_path, step, [{"id": str(step)}])
    (tmp_path / "rollouts" / "notes.jsonl").write_text("a person's own")
    delete_rollouts(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [
        "000001.jsonl",
        "000002.jsonl",
        "notes.jsonl",
    ]
