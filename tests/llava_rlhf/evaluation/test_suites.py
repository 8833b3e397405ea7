"""A suite from its file to its table, with a real tiny model and a judge over a socket."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llava_rlhf import evaluate
from llava_rlhf.evaluation.arguments import JudgeArguments
from llava_rlhf.evaluation.suite_arguments import SuiteArguments
from llava_rlhf.evaluation.suite_tables import HEADLINES
from llava_rlhf.evaluation.suites import CLASSES, read_suite, split_answers, unique_questions
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.runs.run_folder import read_json_lines
from tests.llava_rlhf.evaluation.amber_files import write_amber
from tests.llava_rlhf.evaluation.test_chair import write_coco
from tests.llava_rlhf.evaluation.test_hallusionbench import write_hallusion
from tests.llava_rlhf.evaluation.test_mmhal import write_questions
from tests.llava_rlhf.evaluation.test_object_halbench import write_objects
from tests.llava_rlhf.evaluation.test_pope import write_pope
from tests.support.judge_server import JudgeServer
from tests.support.tiny_data import command_line, write_tiny_data


def write_suite(folder: Path, **entries: dict) -> Path:
    path = folder / "suite.json"
    path.write_text(json.dumps(entries))
    return path


def read(folder: Path, suite: Path, **judge: str):
    arguments = SuiteArguments(suite_file=str(suite), output_dir=str(folder / "out"))
    return read_suite(arguments, JudgeArguments(**judge))


def test_a_question_is_asked_once_whatever_scores_it(tmp_path):
    hallusion = {"benchmark": "hallusionbench", "benchmark_files": write_hallusion(tmp_path / "h.json")}
    chair = {
        "benchmark": "chair",
        "benchmark_files": write_coco(tmp_path),
        "images": 0,
        "image_subfolder": "coco",
    }
    suite = write_suite(
        tmp_path,
        rule={**hallusion, "verdict": "rule"},
        judge={**hallusion, "verdict": "judge"},
        short={**hallusion, "verdict": "rule", "question_suffix": "One word."},
        chair=chair,
        elsewhere={**chair, "image_subfolder": ""},
    )
    entries = read(tmp_path, suite, judge_url="http://127.0.0.1:9/v1", judge_model="judge-1")
    assert [entry.made.judge and entry.made.judge.name for entry in entries[:3]] == [None, "judge-1", None]
    questions = unique_questions(entries)
    assert (
        len(questions) == 9 + 9 + 3 + 3
    )  # rule and judge share theirs; a suffix or another folder makes another question
    assert questions[9].question == "Is it so, VD 0?\nOne word."
    assert questions[18].image == "coco/000000000001.jpg" and questions[5].image == ""
    answers = [
        {
            "id": one.id,
            "prompt_row": place,
            "sample": sample,
            "answer": f"{one.id}/{sample}",
            "question": one.question,
        }
        for place, one in enumerate(questions)
        for sample in (0, 1)
    ]
    split = split_answers(entries, questions, answers)
    assert split["rule"] == split["judge"] and len(split["rule"]) == 18
    assert [line["answer"] for line in split["short"]][:3] == ["000009/0", "000009/1", "000010/0"]
    assert (
        split["chair"][0]["image"] == ["000000000001.jpg"] and split["chair"][0]["id"] == "000000000001.jpg"
    )
    assert all("prompt_row" not in line for line in split["chair"])
    entries[0].made.check(split["rule"], False)


def test_a_value_may_look_like_a_flag(tmp_path):
    pope = {"benchmark": "pope", "benchmark_files": [write_pope(tmp_path / "p.json", "yn")]}
    suite = write_suite(
        tmp_path, a={**pope, "question_suffix": "--verbose"}, b={**pope, "question_suffix": "-1"}
    )
    assert [entry.suffix for entry in read(tmp_path, suite)] == ["--verbose", "-1"]


def test_a_judge_of_an_entrys_own_goes_before_that_of_the_command_line(tmp_path):
    mmhal = {"benchmark": "mmhal", "benchmark_files": write_questions(tmp_path / "q.json")}
    own = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "judge-2", "judge_repeats": 3}
    suite = write_suite(tmp_path, a=mmhal, b={**mmhal, **own})
    a, b = read(
        tmp_path, suite, judge_model_path=None, judge_url="http://127.0.0.1:8/v1", judge_model="judge-1"
    )
    assert (a.made.judge.name, a.made.repeats) == ("judge-1", 1)
    assert (b.made.judge.name, b.made.repeats) == ("judge-2", 3)


def test_repeats_of_the_command_line_are_mmhals_alone(tmp_path):
    suite = write_suite(
        tmp_path,
        rated={"benchmark": "mmhal", "benchmark_files": write_questions(tmp_path / "q.json")},
        read={
            "benchmark": "hallusionbench",
            "benchmark_files": write_hallusion(tmp_path / "h.json"),
            "verdict": "judge",
        },
    )
    judge = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "judge-1"}
    rated, other = read(tmp_path, suite, **judge, judge_repeats=3)
    assert rated.made.repeats == 3 and other.made.judge.name == "judge-1"


def test_judges_on_this_machine_share_one_model(tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    mmhal = {"benchmark": "mmhal", "benchmark_files": write_questions(tmp_path / "q.json")}
    suite = write_suite(tmp_path, a=mmhal, b=mmhal)
    arguments = SuiteArguments(suite_file=str(suite), output_dir=str(tmp_path / "out"), judge_device="cpu")
    a, b = read_suite(arguments, JudgeArguments(judge_model_path=str(tmp_path / "judge")))
    assert a.made.judge is not b.made.judge and a.made.judge._model is b.made.judge._model


def test_every_metric_of_the_table_is_one_of_its_benchmark(tmp_path):
    files = {
        "pope": [write_pope(tmp_path / "p.json", "yn")],
        "mmhal": [write_questions(tmp_path / "q.json")],
        "chair": write_coco(tmp_path),
        "amber": [write_amber(tmp_path)],
        "hallusionbench": [write_hallusion(tmp_path / "h.json")],
        "object_halbench": write_objects(tmp_path),
    }
    judge = {"verdict": "judge", "judge_url": "http://127.0.0.1:9/v1", "judge_model": "judge-1"}
    more = {
        "mmhal": judge,
        "hallusionbench": judge,
        "object_halbench": judge,
        "amber": {"amber_words": "lists"},
        "chair": {"images": 0},
    }
    entries = {
        name: {"benchmark": name, "benchmark_files": paths, **more.get(name, {})}
        for name, paths in files.items()
    }
    for entry in read(tmp_path, write_suite(tmp_path, **entries)):
        named = {metric for first, _, second in HEADLINES[entry.benchmark] for metric in (first, second)}
        assert named <= set(entry.made.metrics)
    assert set(HEADLINES) == {*files, "tiny_world"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = write_tiny_data(tmp_path_factory.mktemp("suite") / "data")
    picture = sorted(data.images.iterdir())[0].read_bytes()
    names = [
        *(f"{n}.jpg" for n in range(2)),
        *(f"pictures/V{kind}_{n}.jpg" for kind in "DS" for n in range(3)),
    ]
    names += [f"coco/{n:012d}.jpg" for n in range(1, 4)]
    for name in names:
        path = data.images / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
    return data


def test_one_command_answers_scores_and_tells(data, tiny_base, tmp_path, capsys):
    objects, coco = write_objects(tmp_path), {"image_subfolder": "coco"}
    hallusion = {"benchmark": "hallusionbench", "benchmark_files": write_hallusion(tmp_path / "h.json")}
    suite = write_suite(
        tmp_path,
        pope={"benchmark": "pope", "benchmark_files": [write_pope(tmp_path / "p.json", "yn")]},
        amber={"benchmark": "amber", "benchmark_files": write_amber(tmp_path), "amber_words": "lists"},
        chair={"benchmark": "chair", "benchmark_files": objects[1:], "images": 0, **coco},
        objects={"benchmark": "object_halbench", "benchmark_files": objects, "verdict": "judge", **coco},
        ruled={**hallusion, "verdict": "rule"},
        judged={**hallusion, "verdict": "judge"},
    )
    out = tmp_path / "out"
    with JudgeServer(lambda text: '["dog"]' if "List the things" in text else "unclear") as server:
        judge = {"judge_url": server.url, "judge_model": "judge-1"}
        flags = {
            "suite_file": suite,
            "output_dir": out,
            "base_model_name": tiny_base,
            "image_folder": data.images,
            "version": "tiny",
            "response_len": 8,
            "use_cpu": True,
            "resamples": 200,
            **judge,
        }
        prepared = evaluate.prepare(["suite", *command_line(**flags)])
        evaluate.run(prepared)
        asked = len(server.requests)
    assert asked >= 9
    lines = read_json_lines(out / "answers.jsonl")
    assert len(lines) == 2 + 12 + 3 + 3 + 9
    table = json.loads((out / "table.json").read_text())
    assert {row["entry"]: row["read_by"] for row in table["rows"]} == {
        "pope": "rule",
        "amber": "lists",
        "chair": "rule",
        "objects": "judge-1",
        "ruled": "rule",
        "judged": "judge-1",
    }
    assert table["answer_settings"] == json.loads((out / "answers.jsonl.settings.json").read_text())
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert '- **judged: judge judge-1, {"temperature": 0, "max_tokens": 512}, prompt ' in text
    # Each number is that of the entry's own score file, which `evaluate score` makes again from the entry's answers.
    ruled = json.loads((out / "scores" / "ruled.json").read_text())
    again = {
        **hallusion,
        "verdict": "rule",
        "answers": out / "answers" / "ruled.jsonl",
        "output_file": tmp_path / "r.json",
    }
    evaluate.run(evaluate.prepare(["score", *command_line(**again, resamples=200)]))
    assert json.loads((tmp_path / "r.json").read_text()) == ruled
    row = next(
        row for row in table["rows"] if row["entry"] == "ruled" and row["hallucination"]["metric"] == "aAcc"
    )
    assert row["hallucination"]["value"] == ruled["table"]["all"]["aAcc"]["value"]
    assert row["coverage"]["metric"] == "answered" and row["coverage"]["better"] == "higher"


def test_the_documented_suite_names_flags_that_exist():
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    entries = json.loads(shown)
    assert len(entries) == 5
    parser = StrictParser(CLASSES)
    for settings in entries.values():
        flags = [word for name, value in settings.items() for word in command_line(**{name: value})]
        found = parser.parse_values(flags)
        assert {name: found[name] for name in settings} == {
            name: [value] if name == "benchmark_files" and isinstance(value, str) else value
            for name, value in settings.items()
        }
