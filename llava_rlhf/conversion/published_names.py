"""Names of weights as published LLaVA models have them, which every server reads.

transformers reads files of any age, but writes its own of today, `vision_tower.embeddings…`, which vLLM refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from models.base_weights import weight_files
from models.families.llava_files import PUBLISHED_PREFIXES, published_name

INDEX = "model.safetensors.index.json"


def module_name(name: str) -> str:
    """The name in the Hugging Face model of a weight that a file of any age calls `name`."""
    published = published_name(name)
    for in_model, prefix in PUBLISHED_PREFIXES.items():
        if published.startswith(prefix):
            return in_model + published.removeprefix(prefix)
    return name


def publish_names(folder: Path, rename: Callable[[str], str] = published_name) -> None:
    """Rename the weights in a model's files; their values stay as they are, bit for bit.

    Args:
        folder: of the model.
        rename: stored name → published name.
    """
    for file in weight_files(folder):
        weights = {rename(name): value for name, value in load_file(file).items()}
        draft = file.with_suffix(".part")
        save_file(weights, draft, metadata={"format": "pt"})
        os.replace(draft, file)
    publish_index(folder, folder, rename=rename)


def publish_index(
    source: Path,
    target: Path,
    total_size: int | None = None,
    rename: Callable[[str], str] = published_name,
) -> None:
    """Write to `target` the index of the shards in `source`, if it has one, with published names.

    Args:
        source, target: folders.
        total_size: bytes of all weights; None: as before.
        rename: stored name → published name.
    """
    if not (source / INDEX).is_file():
        return
    index = json.loads((source / INDEX).read_text(encoding="utf-8"))
    index["weight_map"] = {rename(name): file for name, file in index["weight_map"].items()}
    if total_size is not None:
        index["metadata"] = {**index.get("metadata", {}), "total_size": total_size}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
