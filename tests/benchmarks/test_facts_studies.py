"""The studies of facts: their numbers by hand, their tables, and the driver at a toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.facts import __main__ as driver
from benchmarks.facts.figures import FIGURES
from benchmarks.facts.registry import STUDIES
from benchmarks.facts.settings import STUDIES as NAMES
from benchmarks.facts.studies import curve_numbers, rollout_curve
from benchmarks.facts.tables import difference, report, worth_of_facts
from data_utils.shapes_world import PlacedObject, Scene

SCENE = Scene((PlacedObject("red-circle", 0, 0, 0, 5.0),), noise_seed=0)


def test_a_long_run_is_read_off_where_its_kl_gets_there():
    right = {"question": "describe the image.", "image": ["p"], "answer_type": "GENERAL"}
    rows = [
        [{**right, "response": f"the image shows a {name}."}, {**right, "answer_type": "NO_IN_YESNO"}]
        for name in ("blue-cross", "red-circle", "red-circle", "red-circle")
    ]
    lines = [
        {"objective/kl_sum_seq": kl, "objective/reward_model": float(at)}
        for at, kl in enumerate((0, 1, 3, 2.5))
    ]
    curve = rollout_curve(lines, rows, {"p": SCENE})
    assert curve["gold"] == [-0.5, 1.0, 1.0, 1.0]
    found = curve_numbers(curve)
    assert found["gold@2"] == pytest.approx(0.5)  # steps 1 to 3
    assert found["hallucination@2"] == pytest.approx(1 / 3)
    assert found["kl@end"] == pytest.approx(6.5 / 3)
    assert found["proxy@end"] == pytest.approx(2)
    assert "gold@5" not in found


def test_tables_have_paired_differences_with_intervals():
    found = {
        "factual": {"gold@1": {0: 0.5, 1: 0.7, 2: 0.6}},
        "plain": {"gold@1": {0: 0.3, 1: 0.6, 3: 9.0}},
    }
    assert difference(*(arm["gold@1"] for arm in found.values())).mean == pytest.approx(0.15)
    text = report("best_of_n", STUDIES["best_of_n"], found)
    assert "| gold@1 | 0.600 ± 0.058 | 3.300 ± 2.851 |" in text
    # 0.2 and 0.1: standard error 0.05, times 12.706, Student's t of one degree of freedom
    assert "| factual − plain | gold@1 | +0.150 | -0.485 to +0.785 | no |" in text


def test_facts_are_worth_pairs():
    by_size = {"factual-100": 0.8, "factual-1000": 0.9, "plain-100": 0.7, "plain-1000": 0.8}
    found = {arm: {"accuracy": {5: value}, "descriptions": {5: value}} for arm, value in by_size.items()}
    needed = worth_of_facts(found, "accuracy")
    assert needed == {100: {5: pytest.approx(1000)}, 1000: {5: float("inf")}}
    text = report("pairs", STUDIES["pairs"], found)
    assert "| 100 | 1000 |" in text
    assert "| 1000 | more |" in text


def test_mistakes_are_refused():
    assert set(STUDIES) == set(NAMES)
    cases = {
        "--studies best": ["--studies", "best"],
        "--seeds 1 1": ["--studies", "pairs", "--seeds", "1", "1"],
        "--few_pairs 7": ["--studies", "pairs", "--few_pairs", "7"],
    }
    for message, argv in cases.items():
        with pytest.raises(ValueError, match=message):
            driver.prepare([*argv, "--output_dir", "x"])


TOY = """--seeds 0 --train_images 64 --init_images 32 --preference_images 150 --ppo_images 32 --eval_images 16 --held_out_pairs 20
--pairs 24 48 --few_pairs 24 --noisy_pairs 24 --noise_percent 10 30 --reward_steps 2 --pictures 4 --samples 4 --selected_pictures 8
--selected_of 4 --ppo_steps 2 --long_steps 3 --base_steps 2""".split()


@pytest.mark.nightly
def test_the_driver_runs_resumes_and_draws(tmp_path, capsys):
    argv = ["--studies", "best_of_n", "pairs", "--output_dir", str(tmp_path / "runs"), *TOY]
    arguments = driver.prepare([*argv, "--pictures_dir", str(tmp_path / "pictures")])
    driver.run(arguments)
    first = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "facts_best_of_n.png",
        "facts_pairs.png",
    }
    written = stamps(tmp_path / "runs")
    (tmp_path / "runs" / "results" / "pairs" / "0" / "finished.json").unlink()  # as if it had been cut off
    driver.run(arguments)
    assert capsys.readouterr().out == first
    again = stamps(tmp_path / "runs")
    changed = {path for path, stamp in again.items() if stamp != written[path]}
    assert changed and all(path.parts[-3] == "pairs" for path in changed)


@pytest.mark.nightly
@pytest.mark.parametrize("study", [name for name in NAMES if name not in ("best_of_n", "pairs")])
def test_every_study_runs(study, tmp_path, capsys):
    argv = ["--studies", study, "--output_dir", str(tmp_path / "runs"), *TOY]
    driver.run(driver.prepare([*argv, "--pictures_dir", str(tmp_path / "pictures")]))
    assert f"## {study}: seeds 0" in capsys.readouterr().out
    assert (tmp_path / "pictures" / f"facts_{study}.png").exists() == (study in FIGURES)


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
