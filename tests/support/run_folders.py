"""PPO run folders and score files with numbers chosen by hand, for the tests of the report on a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_rlhf.evaluation.benchmarks.items import ItemScore, Scores
from llava_rlhf.evaluation.score_files import ScoreFile
from llava_rlhf.runs.metrics import MEANINGS
from tests.support.tiny_data import TinyData, write_tiny_data

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><b>&amp;"
KL_COEF = 0.5


def rollout(row: int, score: float, **changes: Any) -> dict[str, Any]:
    """One line of a rollouts file: the score is reward model + 1, `kl` is 2 nats."""
    return {
        "row": row,
        "id": f"p{row}",
        "image": ["red.png"],
        "answer_type": "GENERAL" if row % 3 else "NO_IN_YESNO",
        "question": f"question {row}?",
        "captions": [f"caption {row}."],
        "response": f"response {row}",
        "length": 4 + row,
        "stop_reason": "stop token" if row % 2 else "length",
        "reward_model": score - 1,
        "stop_penalty": -1.0,
        "length_bonus": -float(row),
        "correct_bonus": 2.0 + row,
        "score": score,
        "kl": 2.0,
        **changes,
    }


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]], end: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines) + end)


def write_ppo_run(folder: Path, steps: int = 2, rows: int = 24) -> tuple[Path, TinyData]:
    """A run of `steps` steps: row r of step s has score 100 s + r; the last row of the last step is hostile."""
    data = write_tiny_data(folder / "data", 1)
    run = folder / "run"
    metrics = [
        {"step": step, **dict.fromkeys(MEANINGS, step / 10), "objective/kl_coef": KL_COEF}
        for step in range(1, steps + 1)
    ]
    write_lines(run / "metrics.jsonl", metrics, end='{"step": 99, "objective/kl')
    image = min(path.name for path in data.images.iterdir())
    for step in range(1, steps + 1):
        lines = [rollout(row, 100.0 * step + row, image=[image]) for row in range(rows)]
        if step == steps:
            lines[-1] |= {"response": HOSTILE, "question": HOSTILE, "captions": [HOSTILE]}
        write_lines(run / f"rollouts/{step:06d}.jsonl", lines)
    (run / "arguments.json").write_text(json.dumps({"PPOArguments": {"output_dir": HOSTILE}}))
    return run, data


# Of eight steps: first, and change from step to step. The good run learns; the bad one has every fault that is looked for.
STEPS = 8
GOOD = {
    "objective/rewards": (1.0, 0.5),
    "objective/kl_sum_seq": (1.0, 0.25),
    "objective/kl_avg_seq": (0.1, 0.0),
    "ppo/val/explained_variance": (0.2, 0.05),
    "response/stop_rate": (0.97, 0.0),
    "response/length_mean": (40.0, -1.0),
}
BAD = {
    "objective/rewards": (1.0, 0.5),
    "objective/kl_sum_seq": (4.0, 4.0),
    "objective/kl_avg_seq": (0.1, 0.05),
    "ppo/val/explained_variance": (0.05, -0.05),
    "response/stop_rate": (1.0, -0.1),
    "response/length_mean": (40.0, -5.0),
}


def write_learning_run(
    folder: Path, series: Mapping[str, tuple[float, float]], settings: Mapping[str, Any] | None = None
) -> Path:
    """A run of STEPS steps whose metrics are straight lines: (value at step 1, change from step to step)."""
    lines = [
        {"step": step + 1, **{name: first + slope * step for name, (first, slope) in series.items()}}
        for step in range(STEPS)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    record = {
        "PPOArguments": {"seed": 7, "learning_rate": 1e-5, "output_dir": str(folder), **(settings or {})}
    }
    (folder / "arguments.json").write_text(json.dumps(record))
    return folder


def write_scores(path: Path, false: Sequence[int], recall: float = 0.5) -> Path:
    """A score file of one item for each number of `false`: 1 where a description is hallucinating."""
    metrics = {"hallucination": "share of false ones", "recall": "share of what is named"}
    items = [
        ItemScore(str(row), "all", f"{row}.png", {"hallucination": (value, 1), "recall": (recall, 1)})
        for row, value in enumerate(false)
    ]
    scores = Scores(items, {"files": ["one"]}, {"missing": 0})
    ScoreFile("chair", metrics, "answers.jsonl", None, scores).write(path, {})
    return path
