"""The evaluation scripts of all sizes: what they pass is read by the real parsers, for every benchmark."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.recorded_scripts import OTHER_SIZES, Call, ScriptRunner, parsed
from tests.support.tiers import tiered

SIZES = ("7b-v1.5-224", "13b-v1.5-336", "7b-1x24gb", *OTHER_SIZES)
SCRIPTS = tuple(f"{size}/evaluate.sh" for size in SIZES)
FOLDERS = {"DATA_DIR": "my data", "OUTPUT_DIR": "my run", "BASE_MODEL": "my base"}
FILES = {"pope": 3, "mmhal": 1, "chair": 2}
JUDGE = {"JUDGE_URL": "http://localhost:8000/v1", "JUDGE_MODEL": "judge-1", "JUDGE_REPEATS": "3"}


def run(runner: ScriptRunner, script: str, tmp_path: Path, *arguments: str, **variables: str) -> list[Call]:
    folders = {name: str(tmp_path / place) for name, place in FOLDERS.items()}
    return runner.run(script, *arguments, **folders | variables)


@pytest.mark.parametrize("benchmark", FILES)
@pytest.mark.parametrize("script", tiered(SCRIPTS, quick=SCRIPTS[:1]))
def test_answers_first_then_numbers(script, benchmark, runner, tmp_path):
    calls = run(runner, script, tmp_path, "--use_cpu", "True", BENCHMARK=benchmark, **JUDGE)
    assert [(call.module, call.arguments[0]) for call in calls] == [
        ("llava_rlhf.evaluate", "answer"),
        ("llava_rlhf.evaluate", "score"),
    ]
    answer, score = (parsed(call, tmp_path) for call in calls)
    for settings in (answer, score):
        assert settings["benchmark"] == benchmark and len(settings["benchmark_files"]) == FILES[benchmark]
        assert all(file.startswith(str(tmp_path / "my data")) for file in settings["benchmark_files"])
    assert answer["benchmark_files"] == score["benchmark_files"] and answer["images"] == score["images"]
    assert answer["adapter"].endswith("rl_model") and answer["temperature"] == 0 and answer["use_cpu"]
    assert score["answers"] == answer["output_file"] == str(tmp_path / "my run" / f"{benchmark}.jsonl")
    assert (score["judge_model"], score["judge_repeats"]) == ("judge-1", 3)


@pytest.mark.parametrize("script", tiered(SCRIPTS, quick=SCRIPTS[:1]))
def test_every_variable_can_be_overridden(script, runner, tmp_path):
    text = (runner.checkout / "scripts" / script).read_text()
    names = set(re.findall(r'="\$\{(\w+):-', text))
    assert len(names) > 20 and "SEED" in names
    roots = {"DATA_DIR", "NAME", "OUTPUT_DIR", "COCO_DIR", "MMHAL_DIR", "POPE_DIR", "IMAGE_FOLDER"}
    given = {name: f"/value of/{name}" for name in names - roots - {"BENCHMARK"}}
    given["JUDGE_MODEL_PATH"] = ""
    words = "\n".join(word for call in run(runner, script, tmp_path, **given) for word in call.words)
    assert [value for value in given.values() if value not in words] == []
    for benchmark, folder in (("pope", "POPE_DIR"), ("mmhal", "MMHAL_DIR"), ("chair", "COCO_DIR")):
        for name in (folder, "IMAGE_FOLDER", "DATA_DIR"):
            calls = runner.run(script, BENCHMARK=benchmark, **JUDGE, **{name: "/my own"})
            assert any(word.startswith("/my own") for call in calls for word in call.words)


def test_without_a_judge_mmhal_is_answered_only(runner, tmp_path):
    (call,) = run(runner, SCRIPTS[0], tmp_path, BENCHMARK="mmhal")
    assert call.arguments[0] == "answer"


def test_the_base_alone_and_other_benchmarks(runner, tmp_path):
    answer, _ = run(runner, SCRIPTS[0], tmp_path, ADAPTER="none")
    assert "--adapter" not in answer.words
    done = runner.start(SCRIPTS[0], BENCHMARK="vqa")
    assert done.returncode == 2 and "BENCHMARK=vqa: pope, mmhal or chair" in done.stderr


@pytest.mark.parametrize("script", tiered(SCRIPTS, quick=SCRIPTS[:1]))
def test_a_dry_run_prints_what_it_would_start(script, runner, tmp_path):
    expected = [call.words for call in run(runner, script, tmp_path)]
    folders = {name: str(tmp_path / place) for name, place in FOLDERS.items()}
    done = runner.start(script, DRY_RUN="1", PYTHON=sys.executable, **folders)
    assert done.returncode == 0 and not (tmp_path / "my run").exists()
    assert [tuple(shlex.split(line)[1:]) for line in done.stdout.splitlines()] == expected
    done = runner.start(script, DRY_RUN="1", PYTHON=sys.executable, BENCHMARK="mmhal", **folders)
    assert [shlex.split(line)[0] for line in done.stdout.splitlines()] == [sys.executable, "echo"]
