"""Files of a run that somebody else wrote, or damaged: a page all the same where it can be, else a message that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rlhf import run_report
from llava_rlhf.runs.run_folder import delete_rollouts
from tests.llava_rlhf.reporting.test_run_report import Parsed
from tests.support.run_folders import rollout
from tests.support.tiny_data import command_line

HUGE = 10**400  # no float holds it
NESTED = "[" * 100_000
HALF = "\ud800"  # half a surrogate pair


def write_run(folder: Path, metrics: dict | None = None, settings: dict | None = None, **changes) -> Path:
    (folder / "rollouts").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, **(metrics or {})}) + "\n")
    (folder / "rollouts/000001.jsonl").write_text(json.dumps({**rollout(0, 1.0), **changes}) + "\n")
    (folder / "arguments.json").write_text(json.dumps(settings or {}))
    return folder


def page_of(run: Path, **flags) -> Parsed:
    run_report.run(run_report.prepare(command_line(run=run, **flags)))
    return Parsed((run / "report.html").read_text())


@pytest.mark.parametrize(
    "changes",
    [
        *({"mentions": value} for value in (["a"], 3, {"a": 1}, [{"start": 0, "end": 1, "verdict": ["right"]}])),
        *({"image": value} for value in (3, "a.png", {"a": 1})),
        *({"captions": 3}, {"score": HUGE}, {"score": "x"}, {"value": HUGE}, {"question": HALF}),
    ],
)  # fmt: skip
def test_a_damaged_field_of_a_rollout_leaves_all_others(changes, tmp_path):
    (row,) = page_of(write_run(tmp_path, **changes), image_folder=tmp_path).data()["rows"]
    assert row["response"] == "response 0" and row["mentions"] == []
    assert row["score"] == (1.0 if "score" not in changes else None)
    assert row["image"] == (["red.png"] if "image" not in changes else [str(changes["image"])])


def test_a_metric_that_is_no_number_has_no_curve(tmp_path):
    page = page_of(write_run(tmp_path, {"huge": HUGE, HALF: 1.0}))
    assert "huge" not in page.text and "0.5 at step 1" in page.text
    assert "\\ud800" in page.text, "what no file can hold is spelt out"


@pytest.mark.parametrize("value", [None, 3, [1], "x", {"image_folder": 3, "image_to_caption_file": 3}])
def test_settings_that_are_none_are_left_alone(value, tmp_path):
    settings = dict.fromkeys(("DataArguments", "FactArguments", "PPOArguments"), value)
    assert page_of(write_run(tmp_path, settings=settings)).data()["rows"]


@pytest.mark.parametrize("file", ["metrics.jsonl", "arguments.json"])
def test_what_is_nested_too_deeply_is_named(file, tmp_path):
    (write_run(tmp_path) / file).write_text(f'{{"step": {NESTED}\n{{}}\n')
    with pytest.raises(ValueError, match=rf"{file}.* is not JSON \(maximum recursion"):
        run_report.prepare(command_line(run=tmp_path))


def test_digits_that_are_no_step_are_none(tmp_path):
    (write_run(tmp_path) / "rollouts/².jsonl").write_text("{}\n")
    assert len(page_of(tmp_path).data()["rows"]) == 1
    delete_rollouts(tmp_path, 0)
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["².jsonl"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "arguments.json", "before.json", "link.json"])
def test_a_page_replaces_nothing_that_it_is_made_of(name, tmp_path):
    run = write_run(tmp_path)
    (run / "before.json").write_text("{}")
    (run / "link.json").symlink_to("metrics.jsonl")
    scores = [run / "before.json", run / "after.json"]
    with pytest.raises(ValueError, match=rf"--output_file .*{name}: the page is made of this file"):
        run_report.prepare(command_line(run=run, scores=scores, output_file=run / name))


def test_a_run_is_named_once_however_it_is_spelt(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"--run .*run/\.\./run: is named twice"):
        run_report.prepare(command_line(run=[run, f"{run}/../run"]))


@pytest.mark.parametrize("flag", ["max_rollouts", "whole_steps", "max_images"])
def test_bounds_below_0_are_refused(flag, tmp_path):
    with pytest.raises(ValueError, match=f"--{flag} -1: must be 0 or more"):
        run_report.prepare(command_line(run=write_run(tmp_path), **{flag: -1}))
