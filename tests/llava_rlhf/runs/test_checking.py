"""What a program does in the check before a launch, and in a process that was checked."""

from __future__ import annotations

import sys

import pytest

from data_utils.summary import DataReport
from llava_rlhf.runs.checking import processes_of_run
from llava_rlhf.runs.logs import announce
from llava_rlhf.runs.parsing import run_program
from llava_rlhf.runs.training_arguments import LlavaTrainingArguments


def status_of(prepare, run=lambda prepared: None) -> int:
    with pytest.raises(SystemExit) as end:
        run_program(prepare, run)
    return end.value.code


@pytest.fixture(autouse=True)
def arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])


def refuse(argv):
    raise ValueError("no such thing")


def test_a_check_ends_before_the_work(monkeypatch):
    monkeypatch.setenv("CHECK_FOR_PROCESSES", "8")
    started = []
    assert status_of(lambda argv: "ready", started.append) == 10 and not started
    assert status_of(refuse) == 2


def test_what_only_looks_is_told_to_the_script(monkeypatch):
    started = []
    run_program(lambda argv: None, started.append)
    assert started == [None]
    monkeypatch.setenv("STATUS_OF_SUMMARY", "11")
    assert status_of(lambda argv: None) == 11
    monkeypatch.setenv("CHECK_FOR_PROCESSES", "8")
    assert status_of(lambda argv: None) == 11


def test_a_checked_process_writes_its_refusal_for_the_script(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("REFUSALS_DIR", str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    assert status_of(refuse) == 2
    assert (tmp_path / "3").read_text() == "error: no such thing\n"
    assert capsys.readouterr().err == ""


def test_a_checked_process_does_not_repeat_the_summary(monkeypatch, tmp_path, capsys):
    report = DataReport("data.json", 1, 1, examples=["one", "two"])
    announce(report, main_process=True)
    text = capsys.readouterr().out
    assert "1 of 1 rows" in text and text.count("--- example") == 1
    announce(report, main_process=True, in_full=True)
    assert capsys.readouterr().out.count("--- example") == 2
    monkeypatch.setenv("REFUSALS_DIR", str(tmp_path))
    announce(report, main_process=True)
    assert capsys.readouterr().out == ""


def test_a_check_counts_the_processes_that_will_be(monkeypatch, tmp_path):
    """Without DeepSpeed, which would look for them."""
    config = tmp_path / "zero.json"
    config.write_text("{}")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes_of_run() == 1
    monkeypatch.setenv("CHECK_FOR_PROCESSES", "8")
    settings = LlavaTrainingArguments(
        model_name_or_path="base",
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=2,
        deepspeed=str(config),
    )
    assert processes_of_run() == settings.world_size == 8 and settings.rows_per_step == 16
    assert settings.deepspeed == str(config)
