"""Folders of real models with broken numbers in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def with_broken_weight(
    source: Path, target: Path, file: str, name: str, change: Callable[[Tensor], object]
) -> Path:
    """A copy of `source` (or itself, if that is `target`) in which `change` was applied, in place, to the first weight of `file` that has `name` in its name."""
    if target != source:
        shutil.copytree(source, target)
    weights = load_file(target / file)
    chosen = next(weight for key, weight in sorted(weights.items()) if name in key)
    change(chosen)
    save_file(weights, target / file, metadata={"format": "pt"})
    return target
