"""A PPO run folder with numbers chosen by hand, for the tests of its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
