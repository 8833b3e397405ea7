"""What a start costs: nobody waits for torch who only asks what a program can do, or whose work has no use for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_utils.shapes_files import read_scenes
from llava_rlhf.evaluation.benchmarks.tiny_world import TinyWorld
from tests.house.rooms import PACKAGE, ROOT, package_files
from tests.llava_rlhf.ablation.small_study import SmallStudy
from tests.support.run_folders import write_lines, write_ppo_run
from tests.support.tiny_data import command_line

HEAVY = ("torch", "peft", "accelerate", "bitsandbytes", "deepspeed")
SLOW = ("scipy", "matplotlib", "pandas", "datasets", "sklearn")  # half a second each
# Runs commands as `python -m` does, one after the other, and writes which heavy packages each of them loaded.
RUNNER = """
import contextlib, importlib, json, runpy, sys

def loaded():
    return set(sys.modules) & set(json.loads(sys.argv[1]))

def run(module, *arguments):
    sys.argv[:] = [module, *arguments]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0

keep, report = list(sys.argv), []
for module, *arguments in json.load(sys.stdin):
    sys.argv[:] = keep
    before = loaded()
    if arguments == ["ACTIONS"]:
        actions = getattr(importlib.import_module(module), "ARGUMENTS", ())
        report.append([0, sorted(actions) if isinstance(actions, dict) else []])
        continue
    code = run(module, *arguments)
    sys.argv[:] = keep
    report.append([code or 0, sorted(loaded() - before)])
print(json.dumps(report))
"""
CLEAN = [0, []]


def run_commands(
    commands: Sequence[Sequence[str]], heavy: Sequence[str] = HEAVY
) -> list[tuple[int, list[str]]]:
    """Run commands in one fresh process; exit status of each, and the heavy packages that it was the first to load."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(heavy)],
        input=json.dumps([list(map(str, command)) for command in commands]),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def runnable() -> list[str]:
    """Modules that can be run: the programs, and those of rooms that are tools."""
    files = [path for path in package_files() if "\n    run_program(" in path.read_text("utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]


def test_programs_of_the_root_and_of_rooms_are_found():
    found = runnable()
    assert {f"{PACKAGE}.{name}" for name in ("score", "ablate", "tiny_world.report")} <= set(found)
    assert len(found) >= 20 and f"{PACKAGE}.runs.parsing" not in found


def test_a_program_that_loads_torch_is_seen(tmp_path):
    (tmp_path / "slow.py").write_text("import torch\n")
    (tmp_path / "broken.py").write_text("raise SystemExit(3)\n")
    names = [f"{tmp_path.name}.{name}" for name in ("slow", "broken")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        assert run_commands([[name] for name in names]) == [[0, ["torch"]], [3, []]]


def test_help_loads_no_torch():
    """Behind an action too, nor anything else that takes its time."""
    modules = runnable()
    actions = [names for _, names in run_commands([[module, "ACTIONS"] for module in modules])]
    commands = [[module, "--help"] for module in modules]
    commands += [
        [module, name, "--help"] for module, names in zip(modules, actions, strict=True) for name in names
    ]
    assert len(commands) >= len(modules) + 5
    found = run_commands(commands, (*HEAVY, *SLOW))
    named = {" ".join(command): result for command, result in zip(commands, found, strict=True)}
    assert {name: result for name, result in named.items() if result != CLEAN} == {}


def test_the_package_loads_nothing():
    code = f"import sys, {PACKAGE}; print({{'torch', 'transformers', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def write_answers(path: Path, world: Path, samples: int = 1) -> None:
    """An answer to each prompt of a world's evaluation: its first object, then none."""
    scenes = read_scenes(world / "scenes.json")
    texts = [
        lambda image: f"the image shows a {scenes[image].names[0]}.",
        lambda image: "the image shows nothing.",
    ]
    items = enumerate(TinyWorld(world).items())
    write_lines(
        path,
        [
            {
                "id": item.id,
                "prompt_row": row,
                "image": [item.image],
                "question": item.question,
                "answer_type": item.answer_type.name,
                "answer": texts[sample](item.image),
                "tokens": 4,
                "stopped": True,
                "sample": sample,
            }
            for row, item in items
            for sample in range(samples)
        ],
    )


def there_and_back(folder: Path, images: Path) -> list[tuple[str, ...]]:
    """Preferences to another trainer's rows, and those imported."""
    preferences, rows = folder / "preferences.json", folder / "trl.jsonl"
    flags = command_line(preferences_file=preferences, format="trl", output_file=rows)
    back = command_line(source=rows, image_folder=images, output_dir=folder / "imported")
    return [("make_dataset", "export", *flags), ("make_dataset", "import", *back)]


def test_work_without_a_model_loads_no_torch(tmp_path, monkeypatch):
    own, world, ppo = tmp_path / "own", tmp_path / "world", tmp_path / "ppo"
    sizes = {f"{name}_images": 1 for name in ("train", "init", "preference", "ppo")} | {"eval_images": 2}
    commands = [
        ("tiny_world.make_world", *command_line(output_dir=world, **sizes)),
        ("tiny_world.draw_pictures", *command_line(output_dir=own, images=5)),
    ]
    assert run_commands([(f"{PACKAGE}.{name}", *rest) for name, *rest in commands]) == [CLEAN] * 2
    answers, pairs = tmp_path / "answers.jsonl", tmp_path / "pairs.jsonl"
    write_answers(answers, world)
    write_answers(pairs, world, samples=2)
    run, _ = write_ppo_run(ppo)
    study = SmallStudy(tmp_path / "ablation")
    monkeypatch.setenv("CALLS", str(study.calls_file))
    scores, files = tmp_path / "scores.json", {"benchmark": "tiny_world", "benchmark_files": world}
    (tmp_path / "tiny_run").mkdir()
    commands = [
        (
            "make_dataset",
            "prompts",
            *command_line(
                image_folder=own / "pictures",
                captions_table=own / "captions.csv",
                output_dir=tmp_path / "data",
            ),
        ),
        (
            "tiny_world.label_preferences",
            *command_line(world=world, answers=pairs, output_file=tmp_path / "preferences.json"),
        ),
        (
            "make_dataset",
            "dialogues",
            *command_line(
                preferences_file=tmp_path / "preferences.json", output_file=tmp_path / "dialogues.json"
            ),
        ),
        *there_and_back(tmp_path, world / "images"),
        ("evaluate", "score", *command_line(answers=answers, output_file=scores, resamples=100, **files)),
        (
            "evaluate",
            "compare",
            *command_line(runs=[f"A={scores}", f"B={scores}"], output_dir=tmp_path / "table", resamples=100),
        ),
        ("run_report", *command_line(run=run)),
        ("ablate", *study.command("--factors", "facts")),
    ]
    found = run_commands([(f"{PACKAGE}.{name}", *rest) for name, *rest in commands])
    assert found == [CLEAN] * len(commands)
    for path in (scores, tmp_path / "table" / "table.md", run / "report.html", tmp_path / "dialogues.json"):
        assert path.stat().st_size > 0
