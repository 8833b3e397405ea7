"""Data whose pairs have answer types, a trained reward model, and the command line of the scoring program."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llava_rlhf import score, train_reward_model
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.tiny_data import TinyData, changed, command_line, reward_command, write_tiny_data

SEED = 3  # that of the training in tests.support.tiny_data


def write_scoring_data(folder: Path) -> TinyData:
    """The second half of the pairs say of what answer type they are, and some preferences are hard to learn."""
    data = write_tiny_data(folder)

    def change(rows):
        for index in range(8, 16):
            rows[index]["caption_type"] = 1 + index % 7
        for index in (1, 6, 11):
            rows[index]["preference"] = 3 - rows[index]["preference"]

    changed(data.preferences, data.preferences.name, change)
    return data


def train_reward(data: TinyData, base: Path, folder: Path, **changes) -> Path:
    """A reward model that sometimes errs; `changes` replace or add flags."""
    settings = {"max_steps": 2, "learning_rate": 1e-2, "save_strategy": "no", **changes}
    train_reward_model.run(train_reward_model.prepare(reward_command(data, base, folder, **settings)))
    return folder


def with_card(reward: Path, folder: Path, **changes) -> Path:
    """A copy of a reward model whose card says something else."""
    shutil.copytree(reward, folder)
    card = json.loads((folder / "reward_model.json").read_text())
    (folder / "reward_model.json").write_text(json.dumps(card | changes))
    return folder


def score_command(data: TinyData, reward: Path, output: Path, **changes) -> list[str]:
    """Command line of score.py: all pairs with facts; `changes` replace or add flags."""
    settings = {
        "reward_model_name_or_path": reward,
        "dataset_path": data.preferences,
        "image_folder": data.images,
        "image_to_caption_file": data.captions,
        "output_file": output,
        "response_len": 20,
        "seed": SEED,
        "use_cpu": True,
    }
    return command_line(**{**settings, **changes})


def scored(data: TinyData, reward: Path, output: Path, **changes) -> tuple[list[dict], dict]:
    """The lines and the summary that a run writes."""
    score.run(score.prepare(score_command(data, reward, output, **changes)))
    return read_json_lines(output), json.loads(Path(f"{output}.summary.json").read_text())
