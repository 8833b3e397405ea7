"""Names of weights as published LLaVA models have them, which every server reads.

transformers reads files of any age, but writes its own of today, `vision_tower.embeddings…`, which vLLM refuses.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from models.base_weights import weight_files
from models.families.llava_files import present_name

INDEX = "model.safetensors.index.json"
# Name in the Hugging Face model → name in published files.
PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def published_name(name: str) -> str:
    """The published name of a weight that a model, or a file of any age, calls `name`."""
    if name.startswith("language_model.lm_head."):
        return name
    present = present_name(name)
    for in_model, published in PREFIXES.items():
        prefix = in_model.removeprefix("model.")
        if present.startswith(prefix):
            return published + present.removeprefix(prefix)
    return name


def module_name(name: str) -> str:
    """The name in the Hugging Face model of a weight that a file of any age calls `name`."""
    published = published_name(name)
    for in_model, prefix in PREFIXES.items():
        if published.startswith(prefix):
            return in_model + published.removeprefix(prefix)
    return name


def publish_names(folder: Path) -> None:
    """Rename the weights in a model's files; their values stay as they are, bit for bit."""
    for file in weight_files(folder):
        weights = {published_name(name): value for name, value in load_file(file).items()}
        draft = file.with_suffix(".part")
        save_file(weights, draft, metadata={"format": "pt"})
        os.replace(draft, file)
    publish_index(folder, folder)


def publish_index(source: Path, target: Path, total_size: int | None = None) -> None:
    """Write to `target` the index of the shards in `source`, if it has one, with published names.

    `total_size` are the bytes of all weights; None: as before.
    """
    if not (source / INDEX).is_file():
        return
    index = json.loads((source / INDEX).read_text(encoding="utf-8"))
    index["weight_map"] = {published_name(name): file for name, file in index["weight_map"].items()}
    if total_size is not None:
        index["metadata"] = {**index.get("metadata", {}), "total_size": total_size}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
