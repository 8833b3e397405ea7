"""Rows as answers files have them, and what `llava_rlhf.score` says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rlhf import score
from llava_rlhf.runs.run_folder import read_json_lines
from tests.llava_rlhf.evaluation.scoring import score_command
from tests.support.tiny_data import TinyData, prompt_row

ANSWERS = ("there is a cat.", "a red dog and a small table.", "", "a blue bird. a tree. a car.", "two.")


def answer_rows() -> list[dict[str, Any]]:
    """32 rows as answers files have them, of all kinds: one image, none, two; captions of their own; cut off."""
    rows = []
    for place in range(32):
        prompt = prompt_row(place % 16)
        question = prompt["conversations"][0]["value"].replace("<image>", "").strip()
        row = {"id": f"row {place}", "question": question, "answer": ANSWERS[place % 5], "prompt_row": place}
        row |= {name: prompt[name] for name in ("image", "captions", "caption_type") if name in prompt}
        row |= {"stopped": False} if place % 4 == 1 else {}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Scored:
    """Rows, and their scores by `llava_rlhf.score`."""

    rows: list[dict[str, Any]]
    scores: list[float]


def score_rows(data: TinyData, reward: Path, folder: Path, count: int = 32, **changes: Any) -> Scored:
    """Have the program score the first of them, with files in a folder; `changes` replace or add flags."""
    rows = answer_rows()[:count]
    (folder / "answers.json").write_text(json.dumps(rows))
    argv = score_command(
        data, reward, folder / "scores.jsonl", dataset_path=folder / "answers.json", **changes
    )
    score.run(score.prepare(argv))
    lines = read_json_lines(folder / "scores.jsonl")
    assert [line["row"] for line in lines] == list(range(len(rows)))
    return Scored(rows, [line["score"] for line in lines])
