"""Questions and answers in the dresses and layouts that others publish: the same numbers, or what is wrong with them."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest

from llava_rlhf import evaluate
from llava_rlhf.evaluation.benchmarks.chair import Chair
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.benchmarks.mmhal import PROMPT_NAMES, MMHal
from llava_rlhf.evaluation.benchmarks.pope import Pope
from llava_rlhf.evaluation.score_files import summarise
from tests.llava_rlhf.evaluation.test_chair import write_coco
from tests.llava_rlhf.evaluation.test_mmhal import write_questions
from tests.llava_rlhf.evaluation.test_pope import write_pope
from tests.support.tiny_data import command_line

TEXTS = ["Yes", "no.", "Yes, there is", "No"]
PICTURE = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(200)).decode()


def questions(pope: Pope) -> list[str]:
    return [item.question for item in pope.items()]


LAYOUTS = {
    "own": lambda pope: [
        {"id": item.id, "question": item.question, "image": item.image, "answer": text}
        for item, text in zip(pope.items(), TEXTS, strict=True)
    ],
    "llava": lambda pope: [
        {"question_id": 4 - n, "prompt": f"{questions(pope)[3 - n]}\nIn one word.", "text": TEXTS[3 - n]}
        for n in range(4)
    ],
    "llava-without-prompt": lambda pope: [
        {"question_id": n + 1, "text": text, "model_id": "x"} for n, text in enumerate(TEXTS)
    ],
    "pope": lambda pope: [{"question": q, "answer": t} for q, t in zip(questions(pope), TEXTS, strict=True)],
}
DRESSES = {
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "list": lambda rows: json.dumps(rows, indent=4).encode(),
    "gzip": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "marked": lambda rows: b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode(),
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pope_is_scored_alike_in_every_layout_and_dress(layout, dress, tmp_path, capsys):
    file = write_pope(tmp_path / "gqa_pope_seem_random.json", "yynn")
    rows = LAYOUTS[layout](Pope([file]))
    asked = [json.loads(line) for line in Path(file).read_text().splitlines()]
    Path(file).write_bytes(DRESSES[dress](asked))
    (tmp_path / "answers").write_bytes(DRESSES[dress](rows))
    scores = tmp_path / "scores.json"
    settings = {"benchmark": "pope", "benchmark_files": file, "answers": tmp_path / "answers"}
    argv = ["score", *command_line(**settings, output_file=scores, resamples=100)]
    evaluate.run(evaluate.prepare(argv))
    capsys.readouterr()
    table = json.loads(scores.read_text())["table"]["all"]
    # said y n y n to y y n n: tp 1, fn 1, fp 1, tn 1
    assert [table[name]["value"] for name in ("accuracy", "precision", "recall", "f1")] == [0.5] * 4
    items = json.loads(scores.read_text())["items"]
    assert [item["values"]["accuracy"][0] for item in items] == [1, 0, 0, 1]


def test_what_cannot_be_matched_is_refused_with_the_fields_that_answers_have(tmp_path):
    pope = Pope([write_pope(tmp_path / "a.json", "yn"), write_pope(tmp_path / "b.json", "yn")])
    fields = r"An answers file has id, question, image and answer"
    asked = questions(pope)
    for rows, says in [
        (
            [{"question_id": 1, "text": "Yes"}],
            rf"question_id 1 belongs to several questions.*at a time.*{fields}",
        ),
        ([{"question_id": 7, "text": "Yes"}], rf"line 1: question_id 7 belongs to no question.*{fields}"),
        (
            [{"question_id": 1, "prompt": "Is it a dog?", "text": "Yes"}],
            r"line 1: question_id 1 belongs to no question",
        ),
        ([{"question": asked[0], "answer": "Yes"}], rf"1 without id to 4 questions.*their order.*{fields}"),
        (
            [{"question": q, "answer": "Yes"} for q in (asked[1], *asked[1:])],
            rf"line 1: answers 'Is there a thing 2.*question 1 is 'Is there a thing 1.*{fields}",
        ),
        (
            [{"response": "Yes", "query": "Is it?"}],
            rf"fields \['query', 'response'\], those of ms-swift\. {fields}",
        ),
        (
            [{"messages": [], "label": 1}],
            rf"fields \['label', 'messages'\].*{fields}.*\. Also read: question_id",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            pope.own_layout(rows)
    for rows, says in [
        (
            [{"id": "a/1", "text": "Yes"}],
            rf"'answer' is None, no text; its fields are \['id', 'text'\]\. {fields}",
        ),
        (
            [{"id": "a/1", "answer": "Yes"}, {"answer": "Yes"}],
            rf"line 2: no id; its fields are \['answer'\]\. {fields}",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            pope.score(pope.own_layout(rows), False)


def test_the_published_list_of_mmhal_is_read_with_its_answers(tmp_path):
    file = write_questions(tmp_path / "q.json")
    bench = MMHal(file, None, None, 0)
    rows = json.loads(Path(file).read_text())
    filled = [{**row, "model_answer": f"answer {number}"} for number, row in enumerate(rows)][::-1]
    assert bench.own_layout(filled) == [
        {"id": f"{number:02d}", "answer": f"answer {number}"} for number in (3, 2, 1, 0)
    ]
    (tmp_path / "q.jsonl").write_bytes(DRESSES["lines"](rows))
    assert MMHal(str(tmp_path / "q.jsonl"), None, None, 0).items() == bench.items()
    with pytest.raises(ValueError, match=r"fields \['caption', 'image'\], those of captions of pictures"):
        bench.own_layout([{"image": "a.png", "caption": "a cat"}])
    with pytest.raises(ValueError, match=r"line 1: key 'picture9.jpg .*' belongs to no question"):
        bench.own_layout([{**filled[0], "image_src": "picture9.jpg"}])


def test_pictures_in_base64_are_named_once_when_asked_and_not_needed_to_score(tmp_path):
    file = write_questions(tmp_path / "q.json", image=PICTURE)
    with pytest.raises(ValueError, match="row 0, field 'image': is the picture itself as base64 text"):
        MMHal(file, None, None, 0).items()
    (tmp_path / "prompt.txt").write_text("{} {} {} {}")
    scoring = MMHal(file, object(), JudgePrompt(tmp_path / "prompt.txt", PROMPT_NAMES), 1)  # type: ignore[arg-type]
    assert [item.image for item in scoring.items()] == [f"picture{number}.jpg" for number in range(4)]


def test_captions_by_the_number_of_their_image_are_scored_as_chair(tmp_path):
    chair = Chair(write_coco(tmp_path), None, "Describe.", 0, 0)
    rows = [{"image_id": 3, "caption": "a hot dog"}, {"image_id": 1, "caption": "a dog"}]
    rows.append({"image_id": 2, "caption": "a man"})
    scores = chair.score(chair.own_layout(rows), False)
    assert [item.values["chair_i"] for item in scores.items] == [(1, 1), (0, 1), (0, 1)]
    assert summarise(scores.items, ["chair_i"], 100, 0)["all"]["chair_i"]["value"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="image_id 9 belongs to no question"):
        chair.own_layout([{"image_id": 9, "caption": "a dog"}])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04", "is a zip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"<html>", "is a web page"),
        (b'{"data": [{"id": "a/1", "answer": "Yes"}]}', "write the list under 'data' alone"),
        (b"[]", "holds no answers"),
        (b'{"id": "a/1", "answer": "Yes"}\n{"id": "a/', "line 2: must be a JSON object a line"),
        (b"[3]", "row 0: must be a JSON object"),
    ],
)
def test_answers_of_another_dress_are_named(content, says, tmp_path):
    (tmp_path / "answers.jsonl").write_bytes(content)
    settings = {"benchmark": "pope", "benchmark_files": write_pope(tmp_path / "a.json", "y")}
    settings |= {"answers": tmp_path / "answers.jsonl", "output_file": tmp_path / "s.json"}
    with pytest.raises(ValueError, match=rf"--answers .*answers\.jsonl.*{says}"):
        evaluate.prepare(["score", *command_line(**settings)])
