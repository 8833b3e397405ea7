"""Runs side by side: what is compared, what is refused or said, and the three forms of the table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llava_rlhf import evaluate
from llava_rlhf.evaluation.benchmarks.items import ItemScore, Scores
from llava_rlhf.evaluation.score_files import ScoreFile, read_score_file, summarise
from tests.support.tiny_data import command_line

METRICS = {"accuracy": "share of right ones", "f1": "mean of both"}


def write_scores(path: Path, right: list[int], **changes) -> Path:
    """A score file with one item a number; items alternate between two parts."""
    items = [
        ItemScore(f"{n:02d}", ("odd", "even")[n % 2], f"{n:02d}", {"accuracy": (r, 1), "f1": (2 * r, 1 + r)})
        for n, r in enumerate(right)
    ]
    settings = {
        "benchmark": "pope",
        "metrics": METRICS,
        "items": items,
        "conditions": {"judge": "judge-1"},
        "counts": {},
    }
    settings |= changes
    scores = Scores(settings["items"], settings["conditions"], settings["counts"])
    file = ScoreFile(settings["benchmark"], settings["metrics"], "answers.jsonl", None, scores)
    file.write(path, summarise(scores.items, list(settings["metrics"]), 100, 0))
    return path


@pytest.fixture
def runs(tmp_path) -> list[str]:
    first = write_scores(tmp_path / "a.json", [1, 0, 1, 0, 1, 1])
    other = write_scores(tmp_path / "b.json", [1, 1, 1, 0, 1, 1])
    return [f"SFT={first}", f"PPO & co_1={other}"]


def compare(runs: list[str], folder: Path, **changes) -> dict:
    evaluate.run(
        evaluate.prepare(["compare", *command_line(runs=runs, output_dir=folder, resamples=200, **changes)])
    )
    return json.loads((folder / "table.json").read_text())


def test_every_metric_part_and_run_has_a_row(runs, tmp_path):
    table = compare(runs, tmp_path / "out")
    rows = {(row["category"], row["metric"], row["run"]): row for row in table["rows"]}
    assert len(rows) == 3 * 2 * 2 and table["compared_with"] == "SFT"
    first, other = rows["all", "accuracy", "SFT"], rows["all", "accuracy", "PPO & co_1"]
    assert (first["value"], other["value"], first["difference"]) == (
        pytest.approx(4 / 6),
        pytest.approx(5 / 6),
        None,
    )
    # One item differs: of the two ways to swap it, half give as much in either direction.
    assert other["difference"]["value"] == pytest.approx(1 / 6) and other["difference"]["p_value"] == 1
    # f1 of the even part: SFT 0 0 1, PPO 1 0 1: 2 · 1 / 4 and 2 · 2 / 5
    assert rows["even", "f1", "SFT"]["value"] == pytest.approx(2 / 4)
    assert rows["even", "f1", "PPO & co_1"]["difference"]["value"] == pytest.approx(4 / 5 - 2 / 4)


def test_the_order_of_items_means_nothing(runs, tmp_path):
    shuffled = json.loads(Path(runs[1].partition("=")[2]).read_text())
    shuffled["items"].reverse()
    path = tmp_path / "c.json"
    path.write_text(json.dumps(shuffled))
    assert (
        compare(runs, tmp_path / "1")["rows"]
        == compare([runs[0], f"PPO & co_1={path}"], tmp_path / "2")["rows"]
    )


def test_markdown_and_latex_show_the_rows(runs, tmp_path):
    compare(runs, tmp_path)
    table = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + 12 and {line.count("|") for line in table} == {10}
    assert re.search(
        r"\| pope \| all \| accuracy \| PPO & co_1 \| 0.833 \| \[0.500, 1.000\] \| \+0.167 \| \[\+0.000, \+0.500\] \| 1.000 \|",
        "\n".join(table),
    )
    latex = (tmp_path / "table.tex").read_text()
    assert r"PPO \& co\_1" in latex and r"95 \% interval" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + 12
    assert all(len(re.findall(r"(?<!\\)&", line)) == 8 for line in body)
    assert not re.search(r"(?m)^(?!%).*(?<!\\)[%#_]", latex)
    compare([run.replace("PPO & co_1", "<|x|> 50%") for run in runs], tmp_path)
    assert r"$<$$|$x$|$$>$ 50\%" in (tmp_path / "table.tex").read_text()


def test_other_conditions_are_refused_or_said(runs, tmp_path, capsys):
    other = write_scores(tmp_path / "c.json", [1] * 6, conditions={"judge": "judge-1", "judge_prompt": "b"})
    mixed = [runs[0], f"C={other}"]
    with pytest.raises(
        ValueError, match="C was scored under other conditions than SFT: judge_prompt b instead of null"
    ):
        compare(mixed, tmp_path / "out")
    table = compare(mixed, tmp_path / "out", allow_other_conditions=True)
    note, judged = table["notes"]
    assert "OTHER CONDITIONS (judge_prompt b instead of null)" in note
    assert judged == "pope: judged by judge-1."
    assert note in capsys.readouterr().out
    for name in ("table.md", "table.tex"):
        assert note in (tmp_path / "out" / name).read_text()
        assert judged in (tmp_path / "out" / name).read_text()


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({"judge": "judge-2"}, "SFT by judge-1, C by judge-2"),
        ({"verdict": "rule"}, r"SFT by judge-1, C by no judge \(rule\)"),
    ],
)
def test_other_judges_are_refused_whatever_is_said(conditions, says, runs, tmp_path):
    other = write_scores(tmp_path / "c.json", [1] * 6, conditions=conditions)
    with pytest.raises(
        ValueError, match=f"pope: read by different judges: {says}. Score the same answers again"
    ):
        compare([runs[0], f"C={other}"], tmp_path / "out", allow_other_conditions=True)


def test_items_that_belong_to_other_images_can_be_compared_all_the_same(runs, tmp_path):
    def items(n_images: int) -> list[ItemScore]:
        values = {"accuracy": (1, 1), "f1": (2, 2)}
        return [ItemScore(str(n), "all", f"{n_images}-{n % n_images}", values) for n in range(6)]

    files = [
        write_scores(tmp_path / f"{n}.json", [], items=items(n), conditions={"files": n}) for n in (2, 3)
    ]
    table = compare([f"A={files[0]}", f"B={files[1]}"], tmp_path / "out", allow_other_conditions=True)
    assert [row["value"] for row in table["rows"]] == [1, 1, 1, 1]


def test_names_and_files_may_hold_equality_signs(tmp_path):
    file = write_scores(tmp_path / "beta=0.1.json", [1, 0])
    table = compare([f"SFT={file}", f"lr=1e-4={file}"], tmp_path / "out")
    assert [row["run"] for row in table["rows"][:2]] == ["SFT", "lr=1e-4"]


def test_missing_items_are_refused_or_said(runs, tmp_path):
    items = [ItemScore(f"{n:02d}", "odd", f"{n:02d}", {"accuracy": (1, 1), "f1": (2, 2)}) for n in (0, 2, 9)]
    short = write_scores(tmp_path / "c.json", [], items=items)
    with pytest.raises(
        ValueError, match=r"not scored on the same items: SFT lacks 1, C lacks 4 of 7 \(first: 01, 03"
    ):
        compare([runs[0], f"C={short}"], tmp_path / "out")
    table = compare([runs[0], f"C={short}"], tmp_path / "out", missing_items="leave_out")
    assert "only the 2 items that all runs have are counted" in table["notes"][0]
    assert table["rows"][0]["value"] == 1  # items 00 and 02 of SFT


def test_unread_verdicts_are_said(runs, tmp_path):
    other = write_scores(tmp_path / "c.json", [1] * 6, counts={"parse_failures": 3, "verdicts": 12})
    table = compare([runs[0], f"C={other}"], tmp_path / "out")
    assert table["notes"] == ["pope: judged by judge-1.", "pope: 3 of 12 verdicts on C could not be read."]


def test_several_benchmarks_in_one_table(runs, tmp_path):
    more = [
        f"{name}={write_scores(tmp_path / f'{n}.json', right, benchmark='chair')}"
        for n, (name, right) in enumerate([("PPO & co_1", [0, 1]), ("SFT", [0, 0])])
    ]
    rows = compare([*runs, *more], tmp_path / "out")["rows"]
    assert {row["benchmark"] for row in rows} == {"pope", "chair"}
    assert [row["run"] for row in rows if row["benchmark"] == "chair"][:2] == ["SFT", "PPO & co_1"]
    with pytest.raises(ValueError, match=r"SFT, with which all others are compared, has no file of .* chair"):
        compare([*runs, more[0]], tmp_path / "out")
    with pytest.raises(ValueError, match="SFT has two files of the benchmark pope"):
        compare([*runs, runs[0]], tmp_path / "out")


def test_files_of_another_kind_are_refused(runs, tmp_path):
    (tmp_path / "x.json").write_text('{"items": []}')
    with pytest.raises(ValueError, match=r"x.json: no score file"):
        compare([f"A={tmp_path / 'x.json'}"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"y.json: No such file"):
        compare([f"A={tmp_path / 'y.json'}"], tmp_path / "out")
    for run in ("a.json", "two\nlines=a.json"):
        with pytest.raises(ValueError, match="each must be NAME=FILE, without line breaks"):
            compare([run], tmp_path / "out")
    twice = [ItemScore("1", "all", "1", {"accuracy": (1, 1), "f1": (1, 1)})] * 2
    with pytest.raises(ValueError, match=r"z.json: no score file .*an item comes twice"):
        compare([f"A={write_scores(tmp_path / 'z.json', [], items=twice)}"], tmp_path / "out")
    file = write_scores(tmp_path / "n.json", [1, 0])
    for old, new in (('"f1"', '"f2"'), (" 1,", " NaN,")):
        broken = tmp_path / "broken.json"
        head, items = file.read_text().split('"items": [')
        assert old in items
        broken.write_text(f'{head}"items": [{items.replace(old, new)}')
        with pytest.raises(ValueError, match=r"broken.json: no score file"):
            compare([f"A={broken}"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_score_file_is_read_as_it_was_written(tmp_path):
    items = [ItemScore("1", "all", "1", {"accuracy": (np.True_, 1), "f1": (0.1, 3)})]
    found = read_score_file(write_scores(tmp_path / "a.json", [], items=items))
    assert found.scores.items == [ItemScore("1", "all", "1", {"accuracy": (1.0, 1.0), "f1": (0.1, 3.0)})]
