"""Comparing the run folders of two runs that must agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from data_utils.conversation import TEMPLATES, dialogue_segments
from data_utils.schema import read_dialogues
from data_utils.tokens import SegmentEncoder
from tests.support.tiny_models import IMAGE, tiny_tokenizer


def weights_in(folder: Path) -> dict[str, dict]:
    """Every adapter and head below `folder`, by its relative path."""
    files = sorted([*folder.rglob("adapter_model.safetensors"), *folder.rglob("*_head.safetensors")])
    return {str(path.relative_to(folder)): load_file(path) for path in files}


def assert_same_roles(one: Path, other: Path) -> None:
    """The same files with the same weights (to 1e-5), adapters and heads."""
    first, second = weights_in(one), weights_in(other)
    assert first
    assert_close(second, first, rtol=0, atol=1e-5)


def metrics_of(folder: Path, step: int) -> dict[str, float]:
    """The line of `metrics.jsonl` that a step wrote, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["step"] == step)
    return {name: value for name, value in first.items() if not name.startswith("time/")}


def assert_same_metrics(one: dict[str, float], other: dict[str, float]) -> None:
    """Names equal, numbers equal to 1e-5 of their size (sums in another order)."""
    assert other == pytest.approx(one, rel=1e-5, abs=1e-5)


def supervised_tokens(dialogues: Path) -> list[int]:
    """Of each row of a dialogue file, how many tokens carry loss."""
    encoder, template = SegmentEncoder(tiny_tokenizer(), IMAGE), TEMPLATES["tiny"]
    records, _ = read_dialogues(dialogues)
    return [
        sum(encoder.encode(dialogue_segments(template, record.turns, len(record.images))).supervised)
        for record in records
    ]
