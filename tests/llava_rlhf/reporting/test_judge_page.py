"""The page on a judge's quality as text: what it says, what it warns of, and that hostile text stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rlhf import run_report
from llava_rlhf.evaluation.judged_pairs import judge_quality
from llava_rlhf.reporting.judge_quality import judge_checks
from tests.llava_rlhf.reporting.test_run_report import Parsed
from tests.support.hostile_text import assert_shown_as_text, hostile
from tests.support.judged import PAIRS, judged_pair, write_pairs
from tests.support.run_folders import write_lines
from tests.support.tiny_data import command_line, write_tiny_data


def write_page(pairs: Path, **flags) -> str:
    report = run_report.prepare(command_line(pairs=pairs, **flags))
    run_report.run(report)
    return report.arguments.target.read_text()


def states(pairs: list[dict], folder: Path) -> dict[str, str]:
    quality = judge_quality(str(write_pairs(folder / "s.jsonl", pairs)), None, 1)
    return {check.name: check.state for check in judge_checks(quality)}


def many(count: int, right: float, margin: float, longer: bool, first: int = 0) -> list[dict]:
    """Pairs of which a share is right, all with one size of margin."""
    texts = ("a longer text", "short") if longer else ("short", "a longer text")
    signs = [1 if n < right * count else -1 for n in range(count)]
    return [
        judged_pair(first + n, f"{n} {texts[0]}", f"{n} {texts[1]}", sign * margin)
        for n, sign in enumerate(signs)
    ]


@pytest.mark.parametrize(
    ("pairs", "flagged"),
    [
        # sigmoid(1.1) = 0.75
        (many(50, 0.76, 1.1, True) + many(50, 0.76, 1.1, False, 50), set()),
        (many(50, 0.5, 0.1, True) + many(50, 0.5, 0.1, False, 50), {"accuracy"}),
        (many(50, 0.76, 5.0, True) + many(50, 0.76, 5.0, False, 50), {"confidence"}),
        (many(50, 0.9, 1.1, True) + many(50, 0.6, 1.1, False, 50), {"length"}),
        (many(50, 0.6, 1.1, True) + many(50, 0.9, 1.1, False, 50), {"length"}),
        (many(50, 0.76, 1.1, True) + many(48, 0.78, 1.1, False, 50) + [judged_pair(n, "x", "xy", 0.0) for n in (98, 99)], {"ties"}),
    ],
)  # fmt: skip
def test_what_is_flagged(pairs, flagged, tmp_path):
    assert {name for name, state in states(pairs, tmp_path).items() if state == "look"} == flagged


def test_few_pairs_of_a_type_and_one_pair_are_not_judged(tmp_path):
    assert states(PAIRS, tmp_path)["few"] == "not checked"
    assert states(PAIRS[:1], tmp_path) | {} == {
        "accuracy": "not checked",
        "length": "not checked",
        "confidence": "fine",
    }


def test_the_page(tmp_path, capsys):
    data = write_tiny_data(tmp_path / "data", 1)
    image = min(path.name for path in data.images.iterdir())
    pairs = [pair | {"image": [image]} for pair in PAIRS]
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({image: ["a red thing"], f"aok_{image}": ["because"]}))
    path = write_pairs(tmp_path / "s.jsonl", pairs)
    text = write_page(path, image_folder=data.images, image_to_caption_file=captions, worst_pairs=2)
    page = Parsed(text)
    assert "prefers what people preferred in 64.3% of 7 pairs" in page.text
    assert "2 of 7 pairs, the lowest margins first." in page.text
    assert (
        "margin −3.000" in page.text
        and "because" in page.text
        and "preferred by people: score −3.000" in page.text
    )
    pictures = [given for tag, given in page.tags if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [image] * 2
    assert all(picture["src"].startswith("data:image/") for picture in pictures)
    rows = [given["data-type"] for tag, given in page.tags if tag == "tr" and "data-type" in given]
    assert rows == ["all", "GENERAL", "NO_IN_YESNO", "A_IN_ABCD"]
    figures = page.data()["figures"]
    assert [figure["kind"] for figure in figures] == [
        "bars",
        "lines",
    ]  # seven pairs are too few for ten parts by length
    assert sum(figures[0]["series"][0]["y"]) == pytest.approx(1, abs=1e-5)
    assert figures[1]["series"][1]["x"] == figures[1]["series"][1]["y"]  # the diagonal
    out = capsys.readouterr().out
    assert "look: It pays for length: right on 100.0%" in out and f"wrote {path}.html" in out


def test_with_the_run_that_trained_it(tmp_path):
    run = tmp_path / "reward"
    data = write_tiny_data(tmp_path / "data", 1)
    image = min(path.name for path in data.images.iterdir())
    captions = tmp_path / "own.json"
    captions.write_text(json.dumps({image: ["of the run"]}))
    write_lines(run / "metrics.jsonl", [{"step": 10, "loss": 0.5}])
    settings = {
        "FactArguments": {"image_to_caption_file": str(captions)},
        "DataArguments": {"image_folder": str(data.images)},
        "LlavaTrainingArguments": {"seed": 7},
    }
    (run / "arguments.json").write_text(json.dumps(settings))
    path = write_pairs(tmp_path / "s.jsonl", [PAIRS[4] | {"image": [image]}])
    text = write_page(path, run=run, output_file=tmp_path / "page.html")
    page = Parsed(text)
    assert "seed 7" in page.text and "0.5 at step 10" in page.text and "of the run" in page.text
    assert "img" in {tag for tag, _ in page.tags}
    captions.unlink()
    moved = Parsed(write_page(path, run=run, output_file=tmp_path / "page.html")).text
    assert f"The run's captions, {captions}, are not there any more" in moved


def test_half_a_surrogate_pair_is_spelt_out(tmp_path):
    pair = judged_pair(0, "a \ud800", "b", -1.0, question="\udfff?")
    path = write_pairs(tmp_path / "s.jsonl", [])
    path.write_text(json.dumps(pair) + "\n")
    text = write_page(path)
    assert "a \\ud800" in text and "\\udfff?" in text


def test_hostile_text_is_text(tmp_path):
    places = ("question", "preferred", "other", "caption", "image", "id", "type")
    pair = judged_pair(
        0,
        hostile("preferred"),
        hostile("other"),
        -1.0,
        question=hostile("question"),
        image=[hostile("image")],
        id=hostile("id"),
        answer_type=hostile("type"),
    )
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({hostile("image"): [hostile("caption")]}))
    text = write_page(write_pairs(tmp_path / "s.jsonl", [pair]), image_to_caption_file=captions)
    assert_shown_as_text(text, places, scripts=2)
