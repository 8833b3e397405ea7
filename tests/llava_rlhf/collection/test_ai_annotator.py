"""The AI annotator: what replies mean, both orders, noise; and the program against a server on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from data_utils.schema import read_preferences
from llava_rlhf import collect_preferences
from llava_rlhf.collection.ai_annotator import AIAnnotator, combined, fill_in, read_prompt, read_verdict
from llava_rlhf.collection.judgements import Verdict
from llava_rlhf.collection.pairs import PairFile
from llava_rlhf.engines.judge_client import Reply
from tests.llava_rlhf.collection.world import line
from tests.support.judge_server import JudgeServer
from tests.support.tiny_data import command_line

FIRST, SECOND, TIE, BAD, NONE = (
    Verdict.FIRST,
    Verdict.SECOND,
    Verdict.TIE,
    Verdict.BOTH_BAD,
    Verdict.UNREADABLE,
)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A names a dog.\nVerdict: A", FIRST),
        ("Verdict: A would be wrong.\n**Verdict:** B", SECOND),
        ("verdict - tie.", TIE),
        ("Verdict: Both bad", BAD),
        ("Verdict: both_bad", BAD),
        ("Verdict: answer B", SECOND),
        ("Verdict: a tie", TIE),
        ("Verdict: a", FIRST),
        ("Verdict: Absolutely unsure", NONE),
        ("A is better", NONE),
        ("", NONE),
    ],
)
def test_verdicts_are_read(reply, verdict):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("straight", "swapped", "verdict"),
    [
        (FIRST, FIRST, FIRST),
        (FIRST, SECOND, TIE),  # whatever stood first
        (FIRST, TIE, TIE),
        (BAD, BAD, BAD),
        (BAD, TIE, TIE),
        (FIRST, NONE, NONE),
    ],
)
def test_both_orders_must_agree(straight, swapped, verdict):
    assert combined(straight, swapped) == combined(swapped, straight) == verdict


def test_answers_that_look_like_placeholders_stay_as_they_are():
    text = fill_in("{question}|{captions}|{answer_a}|{answer_b}", "q", [], ("{answer_b}", r"\1 {x}"))
    assert text == r"q|(none)|{answer_b}|\1 {x}"


def test_a_prompt_file_needs_every_place(tmp_path):
    (tmp_path / "prompt.txt").write_text("{question} {answer_a} {answer_b}")
    with pytest.raises(ValueError, match=r"has no \{captions\}"):
        read_prompt(str(tmp_path / "prompt.txt"))
    with pytest.raises(ValueError, match="nowhere"):
        read_prompt("nowhere")


class Always:
    """A judge who finds every first answer of `pairs.jsonl` better."""

    name = "judge"

    def ask_all(self, questions):
        return [
            Reply("Verdict: A" if re.search(r"Answer A:\nfirst", one.text) else "Verdict: B")
            for one in questions
        ]


def test_noise_flips_the_share_that_was_asked_for_and_is_the_same_again(tmp_path):
    pairs = PairFile(tmp_path / "pairs.jsonl")
    pairs.add([line(row, image=[]) for row in range(400)])
    some = list(pairs.pairs.values())

    def label(seed: int, order=1):
        annotator = AIAnnotator(Always(), read_prompt(None), tmp_path, 0.25, seed)
        found = annotator.judgements(some[::order], [()] * len(some))
        return {one.row: one for one in found}

    first = label(0)
    flipped = {row for row, one in first.items() if one.verdict == SECOND}
    assert 65 <= len(flipped) <= 135  # 100 expected, 4 standard deviations
    assert flipped == {row for row, one in first.items() if one.details["flipped"]}
    assert flipped == {row for row, one in label(0, order=-1).items() if one.verdict == SECOND}
    assert flipped != {row for row, one in label(1).items() if one.verdict == SECOND}


@pytest.fixture
def given(tmp_path) -> Path:
    """Answers to six pictures; the better one names a cat and comes first in every second pair."""
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        answers = ["a cat", "a cat and a dog"]
        for answer in answers if number % 2 else answers[::-1]:
            rows.append({"question": f"what is in {number}?", "image": f"{number}.png", "answer": answer})
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    captions = {f"{number}.png": ["a cat on a mat"] for number in range(6)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    return tmp_path


def label_with(server: JudgeServer, folder: Path, **changes) -> None:
    settings = {
        "output_dir": folder / "out",
        "dataset_path": folder / "answers.json",
        "image_folder": folder / "images",
        "image_to_caption_file": folder / "captions.json",
        "annotator": "judge",
        "judge_url": server.url,
        "judge_model": "judge-1",
        "prompts_per_batch": 4,
    }
    collect_preferences.run(collect_preferences.prepare(command_line(**{**settings, **changes})))


def judge(text: str) -> str:
    """Prefers what names no dog; on picture 5 whatever comes first; says nothing on picture 4."""
    if "in 4?" in text:
        return "I can't say."
    if "in 5?" in text:
        return "Verdict: A"
    return "Verdict: B" if "dog" in text.split("Answer A:")[1].split("Answer B:")[0] else "Verdict: A"


def test_the_program_labels_a_file_and_pays_once(given, capsys, caplog):
    caplog.set_level("INFO")
    with JudgeServer(judge) as server:
        label_with(server, given)
        assert "HTTP Request" not in caplog.text  # a line for each would bury what is said
        assert len(server.requests) == 12  # six pairs, both orders
        parts = server.requests[0]["messages"][-1]["content"]
        assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert "a cat on a mat" in parts[1]["text"] and server.requests[0]["temperature"] == 0
        printed = capsys.readouterr().out
        assert re.search(
            r"judge-1: 12 requests \(\d\d+ prompt and \d+ completion tokens\), 0 replies", printed
        )
        records, problems = read_preferences(given / "out" / "preferences.json")
        assert not problems
        assert [(one.extra["prompt_row"], one.preference) for one in records] == [
            (0, 2),
            (1, 1),
            (2, 2),
            (3, 1),
        ]
        summary = json.loads((given / "out" / "summary.json").read_text())
        assert summary["verdicts"] == {"ai:judge-1": {"1": 2, "2": 2, "tie": 1, "unreadable": 1}}
        label_with(server, given)  # everything is judged
        assert len(server.requests) == 12
        (given / "out" / "judgements.jsonl").unlink()
        label_with(server, given, label_noise=0.5)  # other labels from the same replies
        assert len(server.requests) == 12
    assert "12 replies from the cache" in capsys.readouterr().out


def test_links_and_broken_pixels_are_checked_as_the_flags_say(given):
    picture = given / "images" / "0.png"
    picture.rename(given / "elsewhere.png")
    picture.symlink_to(given / "elsewhere.png")
    with JudgeServer(judge) as server:
        with pytest.raises(ValueError, match=r"0\.png.*symbolic link out of the image folder"):
            label_with(server, given)
        label_with(server, given, follow_image_links=True)
        assert len(server.requests) == 12


def test_a_judge_that_falls_silent_leaves_what_was_judged(given):
    with JudgeServer(judge) as server:
        server.script = ["ok"] * 8 + [400] * 8
        with pytest.raises(
            SystemExit, match=r"error: .* gave no reply[^$]*the same command goes on from there"
        ):
            label_with(server, given)
        assert len(read_preferences(given / "out" / "preferences.json")[0]) == 4
        server.script = []
        label_with(server, given)
        assert len((given / "out" / "judgements.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge_url": None}, "needs --judge_url and --judge_model"),
        ({"judge_url": "localhost:8000"}, "must start with http"),
        ({"judge_options": "[1]"}, "must be a JSON object"),
        ({"label_noise": 0.7}, "from 0 to 0.5"),
        ({"annotator": "human"}, "are of --annotator judge"),
        ({"base_model_name": "/some/base"}, "holds answers: leave out --base_model_name"),
        ({"temperature": 0}, "must be above 0"),
        ({"samples": 1}, "--samples 1: must be at least 2"),
        ({"goal": -1}, "--goal -1: must be at least 0"),
        ({"shared_share": 2}, "from 0 to 1"),
        ({"image_to_caption_file": "nowhere.json"}, "no such file"),
        ({"dataset_path": "one.json"}, "no prompt has two answers"),
        ({"dataset_path": "prompts.json"}, "--base_model_name is required"),
        ({"dataset_path": "gone.json"}, "no such file in the image folder"),
        ({"dataset_path": "mixed.json"}, "row 1: prompt_row 0 has another question or image than before"),
    ],
)
def test_what_can_not_work_is_refused(given, changes, message):
    row = {"question": "what?", "image": "0.png", "answer": "a cat"}
    (given / "one.json").write_text(json.dumps([row]))
    mixed = [{**row, "prompt_row": 0}, {**row, "prompt_row": 0, "question": "who?"}]
    (given / "mixed.json").write_text(json.dumps(mixed))
    (given / "gone.json").write_text(json.dumps([row, {**row, "image": "gone.png"}]))
    prompt = {"id": "p", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nwhat?"}]}
    (given / "prompts.json").write_text(json.dumps([prompt]))
    if "dataset_path" in changes:
        changes = {"dataset_path": given / changes["dataset_path"]}
    with JudgeServer() as server:
        if "judge_url" in changes and changes["judge_url"] is None:
            argv = [str(given / "answers.json"), str(given / "images")]
            argv = ["--output_dir", str(given / "out"), "--dataset_path", argv[0], "--image_folder", argv[1]]
            with pytest.raises(ValueError, match=message):
                collect_preferences.prepare([*argv, "--annotator", "judge"])
            return
        with pytest.raises(ValueError, match=message):
            label_with(server, given, **changes)
        assert server.requests == []
