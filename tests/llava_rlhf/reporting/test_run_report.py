"""The report on a run: what is read and shown, against numbers worked out by hand; the page itself as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from llava_rlhf import run_report
from llava_rlhf.reporting.figures import calibration, percentiles, shared_histogram
from llava_rlhf.reporting.page import DECOMPOSITION, SCORE, TOTAL, critics_calibration, decomposition
from llava_rlhf.reporting.run_data import read_run
from llava_rlhf.reporting.selection import Bounds, Selection
from llava_rlhf.runs.metrics import MEANINGS, meaning_of
from tests.support.hostile_text import assert_shown_as_text, hostile
from tests.support.run_folders import (
    BAD,
    GOOD,
    HOSTILE,
    rollout,
    write_learning_run,
    write_lines,
    write_ppo_run,
)
from tests.support.tiny_data import command_line

ALL = Bounds(per_step=0, whole_steps=1000)


class Parsed(HTMLParser):
    """Tags, text, and the contents of script and style elements."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.content: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.cdata_elem:  # inside script or style
            self.content[self.cdata_elem].append(data)
        else:
            self.text += data

    def data(self) -> dict:
        return json.loads(next(text for text in self.content["script"] if text.startswith("{")))


def write_page(run, **flags) -> str:
    run_report.run(run_report.prepare(command_line(run=run, **flags)))
    return (run / "report.html").read_text()


def test_what_is_not_fine_is_printed(tmp_path, capsys):
    good, bad = (
        write_learning_run(tmp_path / name, series) for name, series in [("good", GOOD), ("bad", BAD)]
    )
    write_page(good)
    unread = "not checked: Reward 1.25 → 4.25 (first to last quarter of the steps). Whether answers"
    wrote, reward = capsys.readouterr().out.splitlines()
    assert wrote.startswith("wrote ") and reward.startswith(unread)
    write_page(bad)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line[:24] for line in lines[:-1]] == [
        "look: The critic is wors",
        "look: The policy ran awa",
        "look: Only 35% of the re",
        "look: Responses collapse",
    ]
    assert lines[-1].startswith(unread)
    run_report.run(run_report.prepare(command_line(run=[good, bad], output_file=tmp_path / "both.html")))
    _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("good: not checked: ") and second.startswith("bad: look: The critic")


def test_the_terms_of_a_rollout_by_hand(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "objective/kl_coef": 0.5}])
    write_lines(tmp_path / "rollouts/000001.jsonl", [rollout(0, 3.0), rollout(1, float("nan"), kl=-1.0)])
    write_lines(tmp_path / "rollouts/000002.jsonl", [rollout(2, 4.0, response="a\u2028b\x85c")])
    first, second, third = sorted(read_run(tmp_path, ALL).rows, key=lambda row: row["id"])
    assert (first["kl_penalty"], first["penalized"], first["score"]) == (-1.0, 2.0, 3.0)
    assert (second["kl_penalty"], second["penalized"], second["score"]) == (0.5, None, None)
    # The metrics of a step are written after its rollouts: its KL weight is not known yet.
    assert (third["kl_penalty"], third["penalized"], third["score"]) == (None, None, 4.0)
    assert third["response"] == "a\u2028b\x85c" and third["step"] == 2


def test_which_rollouts_are_kept_by_hand():
    steps = [
        [{"step": s, "score": score} for score in scores]
        for s, scores in enumerate([[5, 1, 3, 9], [4, 2, 0, 6, 7], [8, None, 8.5]])
    ]
    bounds = Bounds(per_step=3, whole_steps=1, total=100, of_the_run=1)
    selection = Selection(bounds)
    for rows in steps:
        selection.add(rows)
    kept = [(row["step"], row["score"]) for row in selection.rows()]
    # lowest and highest of the run; the last step whole; two lowest and the highest of the others, newest first
    assert kept == [(1, 0), (0, 9), (2, 8), (2, None), (2, 8.5), (1, 2), (1, 7), (0, 1), (0, 3)]
    small = Selection(Bounds(per_step=3, whole_steps=1, total=4, of_the_run=1))
    for rows in steps:
        small.add(rows)
    assert [(row["step"], row["score"]) for row in small.rows()] == kept[:4]


def test_percentiles_and_histograms_by_hand():
    assert percentiles([range(101), [7.0]]) == [[5, 7], [25, 7], [50, 7], [75, 7], [95, 7]]
    edges, (first, second) = shared_histogram([[0, 24], [24, 24, 24, 12.5]])
    assert edges == list(range(25))
    assert first == [0.5, *[0] * 22, 0.5] and second == [*[0] * 12, 0.25, *[0] * 10, 0.75]


def test_calibration_by_hand():
    # Twenty rollouts with values 0 to 19 in disorder, which earned twice as much.
    values = [(7 * number) % 20 for number in range(20)]
    figure = calibration(values, [2.0 * value for value in values])
    earned, right = figure["series"]
    middles = [2.0 * part + 0.5 for part in range(10)]
    assert earned["x"] == right["x"] == right["y"] == middles and right["dashed"]
    assert earned["y"] == [2 * middle for middle in middles]
    assert calibration([1.0] * 20, list(range(20))) is None, "a constant is right nowhere and everywhere"
    assert calibration(list(range(9)), list(range(9))) is None


def test_the_critics_picture_takes_the_last_half_of_the_steps(tmp_path):
    run, _ = write_ppo_run(tmp_path, steps=4)
    assert critics_calibration(read_run(run, ALL)) is None and "#critic" not in write_page(run)
    for step in range(1, 5):
        lines = [
            rollout(row, 1.0, value=row, **{"return": 100 * step + row if row else None}) for row in range(11)
        ]
        write_lines(run / f"rollouts/{step:06d}.jsonl", lines)
    found = critics_calibration(read_run(run, ALL))
    assert found["series"][0]["x"] == [float(row) for row in range(1, 11)]  # row 0 has no return
    assert found["series"][0]["y"] == [350.0 + row for row in range(1, 11)]  # of the steps 3 and 4
    assert 'id="critic"' in write_page(run)


def test_a_series_leaves_out_what_is_not_a_finite_number(tmp_path):
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 1.0, "note": "x"},
    ]
    write_lines(tmp_path / "metrics.jsonl", lines)
    run = read_run(tmp_path, ALL)
    assert run.series("loss") == ([1, 3], [2.0, 1.0]) and run.metric_names() == ["loss"]


def test_every_curve_has_its_meaning_and_nothing_is_cut_short(tmp_path):
    run, data = write_ppo_run(tmp_path)
    page = Parsed(write_page(run, image_folder=data.images))
    assert all(meaning in page.text for meaning in MEANINGS.values())
    assert (
        sum(tag == "figure" for tag, _ in page.tags) == len(MEANINGS) + 6
    )  # length, KL and score, twice each
    content = page.data()
    assert len(content["rows"]) == 48 and len(content["images"]) == 1  # embedded once, not once a row
    assert next(iter(content["images"].values())).startswith("data:image/")
    assert "Last step: 2." in " ".join(page.text.split())  # the line of step 99 is cut off


def test_the_page_refuses_everything_but_its_own_script_and_style(tmp_path):
    run, data = write_ppo_run(tmp_path)
    text = write_page(run, image_folder=data.images)
    page = Parsed(text)
    policy = next(
        given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    for kind in ("script", "style"):
        digest = hashlib.sha256(page.content[kind][-1].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert all(given["src"].startswith("data:") for _, given in page.tags if "src" in given)
    # Nothing is loaded by a link; those to the run's files start from the page.
    addresses = [given["href"] for _, given in page.tags if "href" in given]
    assert all(address.startswith(("data:", "#", "./")) for address in addresses)
    assert {"./arguments.json", "./metrics.jsonl", "./rollouts"} <= set(addresses)
    assert not any(name.startswith("on") or name == "style" for _, given in page.tags for name in given)
    assert HOSTILE not in text and page.data()["rows"][1]["response"] == HOSTILE
    assert sum(tag == "script" for tag, _ in page.tags) == 2


def test_every_word_of_a_run_is_shown_as_text(tmp_path):
    """Names of folder, metrics, types and images too; what the script shows lies in its data, which no word ends."""
    run = tmp_path / hostile("run").replace("/", "\N{DIVISION SLASH}")
    image = "<img src=x onerror=alert(1)>.png"
    words = {name: hostile(name) for name in ("id", "question", "response", "answer_type", "stop_reason")}
    write_lines(run / "rollouts/000001.jsonl", [rollout(0, 1.0, **words, image=[image], captions=[HOSTILE])])
    write_lines(run / "metrics.jsonl", [{"step": 1, hostile("metric"): 0.5}])
    (run / "arguments.json").write_text(json.dumps({"PPOArguments": {"name": "</pre><b>"}}))
    text = write_page(run, image_folder=tmp_path)
    page = assert_shown_as_text(text, ["metric", "answer_type"], scripts=2)
    assert run.name in page.text and f"the first: {image}" in page.text and '"</pre><b>"' in page.text
    (row,) = page.json()["rows"]
    assert len(page.json()["figures"]) == 3 * 2 + 1  # distributions, and the metric
    assert {name: row[name] for name in words} == words
    assert (row["image"], row["captions"]) == ([image], [HOSTILE])


def test_the_script_of_the_page_makes_no_markup():
    scripts = [path for path in files("llava_rlhf.reporting").iterdir() if path.name.endswith(".js")]
    assert len(scripts) == 4
    script = "".join(path.read_text() for path in scripts)
    assert "textContent = text" in script
    assert not re.search(r"inner|outer|insertAdjacent|document\.write|createContextualFragment|eval", script)


def test_what_is_left_out_is_said(tmp_path):
    run, data = write_ppo_run(tmp_path, steps=3)
    (run / "rollouts/000002.jsonl").unlink()
    lines = [rollout(row, row, image=[f"{row}.png"]) for row in range(200)]
    write_lines(run / "rollouts/000001.jsonl", lines)
    text = Parsed(write_page(run, image_folder=data.images, max_rollouts=2, whole_steps=1, max_images=3)).text
    # 100 ends of the run, of which the 24 highest are the last step, and nothing more of the first
    assert "124 are left out" in " ".join(text.split())
    assert "Rollouts are missing for 1 of the steps with metrics: 2." in text
    assert (
        re.search(r"3 of \d+ images are in the page", text)
        and "images cannot be shown; the first: 0.png" in text
    )


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "arguments.json").write_text('{"PPOArguments": {}}')
    text = Parsed(write_page(tmp_path)).text
    assert "No step has ended yet." in text and "No line of metrics yet" in text and "No rollouts yet" in text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "obj')
    assert "No step has ended yet." in Parsed(write_page(tmp_path)).text
    # Rollouts are written before the metrics of their step.
    write_lines(tmp_path / "rollouts/000001.jsonl", [rollout(0, 1.0)])
    assert Parsed(write_page(tmp_path)).data()["rows"][0]["penalized"] is None


def test_other_programs_have_curves_only(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 10, "loss": 0.5}, {"step": 10, "eval_accuracy": 0.75}])
    page = Parsed(write_page(tmp_path))
    assert meaning_of("eval_accuracy") in page.text and "0.75 at step 10" in page.text
    assert "form" not in {tag for tag, _ in page.tags} and "rollouts yet" not in page.text
    assert [figure["series"][0]["y"] for figure in page.data()["figures"]] == [[0.5], [0.75]]
    ids = {given.get("id") for _, given in page.tags}
    assert "metrics" in ids and not {"rollouts", "health", "reward", "distributions"} & ids


def test_mistakes_are_refused_before_anything_is_drawn(tmp_path):
    def refused(match, **flags):
        with pytest.raises(ValueError, match=match):
            run_report.prepare(command_line(**flags))

    refused("no such folder", run=tmp_path / "missing")
    refused("not a run folder", run=tmp_path)
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1}])
    refused("--max_images -1", run=tmp_path, max_images=-1)
    refused("--max_rows 0", run=tmp_path, max_rows=0)
    refused("--image_folder .*no such folder", run=tmp_path, image_folder=tmp_path / "missing")
    refused("--output_file .*create it", run=tmp_path, output_file=tmp_path / "missing" / "a.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    refused(r"metrics.jsonl, line 2: is not JSON", run=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": "2"}\n')
    refused(r"metrics.jsonl: step '2' is no whole number", run=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "arguments.json").write_text("[]")
    refused(r"arguments.json: should be a JSON object", run=tmp_path)
    (tmp_path / "metrics.jsonl").write_text("[1]\n")
    refused(r"metrics.jsonl:1: should be a JSON object", run=tmp_path)


def test_the_decomposition_names_every_term_that_is_there(tmp_path):
    run, _ = write_ppo_run(tmp_path)
    figure = decomposition(read_run(run, ALL))
    assert [one["label"] for one in figure["series"]] == list(DECOMPOSITION)
    assert [one["label"] for one in figure["series"] if one["dashed"]] == [SCORE, TOTAL]
    assert set(DECOMPOSITION.values()) < set(MEANINGS)
    # Of a run of another program there is none.
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 0.5}])
    assert decomposition(read_run(tmp_path, ALL)) is None
