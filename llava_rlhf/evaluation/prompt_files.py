"""Items of a benchmark as a file of prompts in the published format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llava_rlhf.evaluation.benchmarks.items import Item
from llava_rlhf.runs.run_folder import write_text_whole


def write_prompts(items: Sequence[Item], suffix: str, path: Path) -> None:
    """Write one prompt an item; `suffix` follows each question on a line of its own, "" for none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, prompts_text(items, suffix))


def prompts_text(items: Sequence[Item], suffix: str) -> str:
    """What `write_prompts` writes."""
    rows = [
        {
            "id": item.id,
            **({"image": item.image} if item.image else {}),
            "conversations": [
                {
                    "from": "human",
                    "value": "\n".join(
                        filter(None, ("<image>" if item.image else "", item.question, suffix))
                    ),
                }
            ],
            "caption_type": int(item.answer_type),
        }
        for item in items
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
