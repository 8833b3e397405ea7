"""Files of hallucination benchmarks, judges and suites that can't be used."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_rlhf import evaluate
from tests.errors.documented import documented
from tests.llava_rlhf.evaluation.amber_files import ANNOTATIONS, write_amber
from tests.llava_rlhf.evaluation.test_hallusionbench import write_hallusion
from tests.llava_rlhf.evaluation.test_mmhal import write_questions
from tests.llava_rlhf.evaluation.test_object_halbench import write_objects
from tests.llava_rlhf.evaluation.test_pope import write_pope
from tests.support.tiny_data import command_line

HERE = Path()
JUDGE = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "judge-1"}


def amber(annotation: dict[str, Any] | None = None, **query: Any) -> dict[str, Any]:
    annotations = [ANNOTATIONS[0] | (annotation or {}), *ANNOTATIONS[1:]]
    return {
        "benchmark": "amber",
        "benchmark_files": write_amber(HERE, annotations, **query),
        "amber_words": "lists",
    }


def moved_amber() -> dict[str, Any]:
    flags = amber()
    Path("alone").mkdir()
    path = Path(flags["benchmark_files"]).rename("alone/query_all.json")
    return flags | {"benchmark_files": str(path)}


def hallusion(verdict: str | None = "rule", **changes: Any) -> dict[str, Any]:
    return {
        "benchmark": "hallusionbench",
        "benchmark_files": write_hallusion(HERE / "h.json", **changes),
        "verdict": verdict,
    }


def objects(files: Callable[[list[str]], list[str]] = lambda files: files, **changes: Any) -> dict[str, Any]:
    paths = files(write_objects(HERE, **changes))
    return {"benchmark": "object_halbench", "benchmark_files": paths, "verdict": "rule"}


def renamed(number: int, part: str, field: str) -> dict[str, Any]:
    """Object HalBench with a file of COCO in which the first row of a part has a number for a text."""
    flags = objects()
    path = Path(flags["benchmark_files"][number])
    content = json.loads(path.read_text())
    content[part][0][field] = 3
    path.write_text(json.dumps(content))
    return flags


def mmhal() -> dict[str, Any]:
    return {"benchmark": "mmhal", "benchmark_files": write_questions(HERE / "q.json")}


def prompt(text: str) -> dict[str, Any]:
    Path("prompt.txt").write_text(text)
    return hallusion("judge") | JUDGE | {"judge_prompt_file": "prompt.txt"}


def suite(content: Any) -> dict[str, Any]:
    Path("suite.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {"suite_file": "suite.json"}


def pope(**changes: Any) -> dict[str, Any]:
    return {"benchmark": "pope", "benchmark_files": [write_pope(HERE / "p.json", "yn", **changes)]}


def answered_before(settings: str = '{"dataset_sha256": "another"}') -> dict[str, Any]:
    Path("old").mkdir()
    Path("old/answers.jsonl").write_text("{}\n")
    Path("old/answers.jsonl.settings.json").write_text(settings)
    return suite({"a": hallusion()}) | {"output_dir": "old"}


def all_dropped() -> dict[str, Any]:
    for number in range(2):
        Image.new("RGB", (8, 8)).save(f"{number}.jpg")
    entries = {"a": pope(), "b": {**pope(), "image_subfolder": "gone"}}
    answering = {"version": "tiny", "response_len": 8, "use_cpu": True}
    skipped = {"skip_invalid": True, "missing_items": "leave_out"}
    return suite(entries) | answering | skipped | {"output_dir": "dropped", "base_model_name": None}


SCORED = {
    "amber-no-packages": lambda: amber() | {"amber_words": "published"},
    "amber-file-elsewhere": moved_amber,
    "amber-other-file": lambda: amber(query=None),
    "amber-no-annotation": lambda: amber(id=99),
    "amber-unknown-thing": lambda: amber({"truth": ["unicorn"]}),
    "amber-no-truth": lambda: amber({"type": "discriminative-relation", "truth": "maybe"}),
    "nobody-reads": lambda: hallusion(None),
    "rule-and-judge": lambda: hallusion() | JUDGE,
    "judge-without-one": lambda: hallusion("judge"),
    "rule-for-mmhal": lambda: mmhal() | {"verdict": "rule"},
    "asked-twice": lambda: hallusion("judge") | JUDGE | {"judge_repeats": 2},
    "prompt-without-answer": lambda: prompt("{question} {reference}"),
    "hallusion-other-file": lambda: hallusion(set_id=None),
    "hallusion-truth": lambda: hallusion(gt_answer="yes"),
    "hallusion-question": lambda: hallusion(question=3),
    "coco-names": lambda: renamed(2, "images", "file_name"),
    "coco-categories": lambda: renamed(1, "categories", "name"),
    "objects-other-file": lambda: objects(image_id="a.jpg"),
    "objects-unknown-image": lambda: objects(image_id=9),
    "objects-no-captions": lambda: objects(lambda files: [*files[:2], files[1]]),
    "objects-two-files": lambda: objects(lambda files: files[:2]),
}  # fmt: skip
SUITES: dict[str, Callable[[], dict[str, Any]]] = {
    "suite-no-file": lambda: {"suite_file": "none.json"},
    "suite-is-a-list": lambda: suite([{"benchmark": "pope"}]),
    "suite-empty": lambda: suite({}),
    "suite-name": lambda: suite({"a/b": {"benchmark": "pope"}}),
    "suite-name-twice": lambda: suite('{"a": {"benchmark": "pope"}, "a": {"benchmark": "chair"}}'),
    "suite-no-object": lambda: suite({"a": "pope"}),
    "suite-unknown-flag": lambda: suite({"a": {"benchmark": "pope", "benchmark_file": "p.json"}}),
    "suite-value": lambda: suite({"a": {"benchmark": "pope", "benchmark_files": {"p": 1}}}),
    "suite-help": lambda: suite({"a": {"help": ["pope"]}}),
    "suite-surrogate": lambda: suite({"a": pope(text="a \ud800 cat?")}),
    "suite-long-name": lambda: suite({"a" * 101: pope()}),
    "suite-of-rewards": lambda: suite({"a": {"benchmark": "reward_accuracy"}}),
    "suite-verdict-for-all": lambda: suite({"a": hallusion()}) | {"verdict": "rule"},
    "suite-prompt-for-all": lambda: suite({"a": hallusion()}) | {"judge_prompt_file": "prompt.txt"},
    "suite-cache-for-all": lambda: suite({"a": hallusion()}) | {"judge_cache": "cache.jsonl"},
    "suite-other-questions": answered_before,
    "suite-settings-broken": lambda: answered_before("[1"),
    "suite-all-dropped": all_dropped,
    "suite-entry-file": lambda: suite({"a": {"benchmark": "pope", "benchmark_files": "none.json"}}),
}
COMPARED = {"other-judges": ("judge-1", "judge-2")}
CASES = {**SCORED, **SUITES, **COMPARED}


def write_score(path: str, judge: str) -> str:
    item = {"id": "1", "category": "all", "cluster": "1", "values": {"rating": [1, 1]}}
    content = {"benchmark": "mmhal", "metrics": {"rating": "mean"}, "answers": "a", "answer_settings": None}
    Path(path).write_text(
        json.dumps(content | {"conditions": {"judge": judge}, "counts": {"verdicts": 1}, "items": [item]})
    )
    return path


@pytest.mark.parametrize("case", CASES)
def test_documented(case, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # As where they are not installed; `datasets` stumbles over this.
    for package in ("nltk", "spacy") if case == "amber-no-packages" else ():
        monkeypatch.setitem(sys.modules, package, None)
    row = documented(__file__, case)
    Path("answers.jsonl").write_text(json.dumps({"id": "1", "answer": "Yes"}) + "\n")
    if case in SCORED:
        flags = {"answers": "answers.jsonl", "output_file": "out.json", **SCORED[case]()}
        argv = ["score", *command_line(**flags)]
    elif case in SUITES:
        flags = {"base_model_name": "none", "image_folder": ".", "output_dir": "out", **SUITES[case]()}
        flags["base_model_name"] = flags["base_model_name"] or tiny_base
        argv = ["suite", *command_line(**flags)]
    else:
        runs = [f"{judge}={write_score(f'{judge}.json', judge)}" for judge in COMPARED[case]]
        argv = ["compare", *command_line(runs=runs, output_dir="out", allow_other_conditions=True)]
    with pytest.raises(ValueError) as refused:
        evaluate.prepare(argv)
    assert re.search(row.pattern, str(refused.value)), refused.value
    assert not Path("out.json").exists()
    assert not Path("out").exists() or not [path for path in Path("out").rglob("*") if path.is_file()]
