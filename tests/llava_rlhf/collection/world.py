"""Pairs and collections without a model."""

from __future__ import annotations

from pathlib import Path

from llava_rlhf.collection.assignments import AssignmentQueue
from llava_rlhf.collection.folder import CollectionFolder

SOURCE = {"seed": 0}


def line(row: int, batch: int = 0, **changes) -> dict:
    """One line of a pairs file."""
    known = {
        "row": row,
        "batch": batch,
        "id": f"p{row}",
        "image": [f"{row}.png"],
        "question": "what is in the image?",
        "answer_type": "GENERAL",
        "outputs": [f"first {row}", f"second {row}"],
    }
    return {**known, **changes}


class Clock:
    """Unix time that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def open_queue(
    folder: Path, lines: list[dict] = (), shared_share: float = 0.0, seed: int = 0, clock: Clock | None = None
) -> tuple[CollectionFolder, AssignmentQueue]:
    """A collection with some pairs more."""
    opened = CollectionFolder(folder, SOURCE)
    if lines:
        opened.pairs.add(lines)
    return opened, AssignmentQueue(
        opened.pairs, opened.journal, opened.preferences, shared_share, seed, clock or Clock()
    )
