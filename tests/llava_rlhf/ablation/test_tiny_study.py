"""A study of the tiny world itself, with a handful of pictures and one PPO step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SIZES = {
    "TRAIN_IMAGES": "40",
    "INIT_IMAGES": "32",
    "PREFERENCE_IMAGES": "40",
    "PPO_IMAGES": "40",
    "EVAL_IMAGES": "8",
    "EVAL_SIZE": "8",
    "EVAL_STEPS": "2",
    "SAVE_STEPS": "2",
    "REWARD_MODEL_STEPS": "2",
    "PPO_STEPS": "1",
}


@pytest.mark.nightly
def test_a_study_of_the_tiny_world(tmp_path):
    study = tmp_path / "study"
    settings = {
        "SEEDS": "5",
        "FACTORS": "facts",
        "JOBS": "2",
        "OUTPUT_DIR": str(study),
        "PYTHON": sys.executable,
    }
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/ablate.sh")],
        env=os.environ | SIZES | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    written = json.loads((study / "ablation.json").read_text())
    by_arm = {run["arm"]: run["values"] for run in written["runs"]}
    assert len(by_arm) == 2
    for arm, values in by_arm.items():
        folder = study / "seed-5/arms" / arm
        made = json.loads((folder / "arguments.json").read_text())
        text = json.dumps(made)
        assert f'"facts": {"false" if arm.startswith("no_facts") else "true"}' in text and '"seed": 5' in text
        (step,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert values["ppo/kl"] == step["objective/log_ratio"]
        scores = json.loads((folder / "evaluation/sampled/scores.json").read_text())["table"]["all"]
        assert values["sampled/recall"] == scores["recall"]["value"]
    facts, plain = (by_arm[name] for name in sorted(by_arm))
    (effect,) = [entry for entry in written["effects"] if entry["measure"] == "sampled/recall"]
    assert effect["over_the_grid"]["mean"] == pytest.approx(facts["sampled/recall"] - plain["sampled/recall"])
    assert effect["over_the_grid"]["interval"] is None  # one seed says nothing of other seeds
    assert set(written["before"]["5"]) == {"sft", "policy_init"}
    assert (study / "ablation.png").is_file() and "one_off" not in done.stdout
