"""The numbers of a study's runs: score files of `llava_rlhf.evaluate`, and how far PPO went."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_rlhf.ablation.design import Arm
from llava_rlhf.ablation.effects import Results
from llava_rlhf.ablation.study import DONE_FILE, arm_folder, seed_folder
from llava_rlhf.evaluation.score_files import ALL
from llava_rlhf.runs.metrics import MEANINGS
from llava_rlhf.runs.run_folder import read_json_lines

# Of PPO's own metrics: the mean over the last quarter of the steps.
TRAINING = {
    "ppo/kl": "objective/log_ratio",
    "ppo/reward_model": "objective/reward_model",
    "ppo/length": "response/length_mean",
    "ppo/stop_rate": "response/stop_rate",
}


@dataclass(frozen=True)
class Numbers:
    """What the runs so far say.

    Attributes:
        results: seed → arm → measure → value.
        before: the same by name, of models before PPO.
        meanings: measure → one sentence.
    """

    results: Results
    before: Mapping[int, Mapping[str, Mapping[str, float | None]]]
    meanings: Mapping[str, str]


def read_numbers(output_dir: Path, seeds: Sequence[int], arms: Sequence[Arm]) -> Numbers:
    """Read all finished runs.

    A measure is `<name>/<metric>` of `<run>/evaluation/<name>/scores.json` or `<run>/evaluation/<name>.json`, or one of
    `TRAINING`.

    Raises:
        ValueError: a finished run has no scores, or a file is none of `evaluate score`.
    """
    results, before, meanings = {}, {}, {}
    for seed in seeds:
        shared = seed_folder(output_dir, seed)
        if not (shared / DONE_FILE).is_file():
            continue
        before[seed] = {
            folder.name: _scores(folder, meanings)
            for folder in sorted(shared.glob("before/*"))
            if folder.is_dir()
        }
        results[seed] = {}
        for arm in arms:
            folder = arm_folder(output_dir, seed, arm)
            if (folder / DONE_FILE).is_file():
                scores = _scores(folder / "evaluation", meanings)
                if not scores:
                    raise ValueError(
                        f"{folder}/evaluation: no score file; delete {folder / DONE_FILE} to run it again"
                    )
                results[seed][arm] = scores | _training(folder, meanings)
    return Numbers(results, before, meanings)


def _scores(folder: Path, meanings: dict[str, str]) -> dict[str, float | None]:
    found = {}
    for path in sorted([*folder.glob("*/scores.json"), *folder.glob("*.json")]):
        if path.name.endswith((".settings.json", ".prompts.json")):
            continue
        name = path.parent.name if path.name == "scores.json" else path.stem
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for metric, entry in content["table"][ALL].items():
                found[f"{name}/{metric}"] = entry["value"]
                meanings[f"{name}/{metric}"] = content["metrics"][metric]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: no score file of `llava_rlhf.evaluate score` ({error!r})") from None
    return found


def _training(folder: Path, meanings: dict[str, str]) -> dict[str, float | None]:
    lines = read_json_lines(folder / "metrics.jsonl")
    last = lines[-max(1, len(lines) // 4) :]
    found = {}
    for measure, metric in TRAINING.items():
        if last and all(metric in line for line in last):
            found[measure] = statistics.fmean(line[metric] for line in last)
            meanings[measure] = f"last quarter of training: {MEANINGS[metric]}"
    return found
