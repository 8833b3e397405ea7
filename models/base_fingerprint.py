"""Which weights a base has, told by a few of them: an adapter means nothing on a base with others."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from models.base_files import read_base_facts
from models.base_weights import present_name, weight_files
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS

ROWS = 8  # of each weight
_MLP = ("gate_proj", "up_proj", "down_proj")


def base_fingerprint(directory: str | Path) -> str:
    """SHA-256 over the first rows of some weights of a base, read from its safetensors files; cheap at any size.

    Embeddings, every linear layer of the first and the last transformer layer, final norm, projector, and what the tower
    makes of patches and positions. Their values are taken as float32 numbers, so the result does not depend on how the
    weights are spread over files, and a number format that keeps the values keeps it too.

    Raises:
        ValueError: the directory is no LLaVA base, holds no safetensors weights, or lacks one of these.
    """
    layers = read_base_facts(directory).layers
    linear = (f"{'mlp' if name in _MLP else 'self_attn'}.{name}" for name in LANGUAGE_MODEL_LINEAR_LAYERS)
    inner = [f"layers.{layer}.{name}" for name in linear for layer in sorted({0, layers - 1})]
    wanted = {f"language_model.{name}.weight" for name in ("embed_tokens", *inner, "norm")}
    wanted.add("multi_modal_projector.linear_1.weight")
    tower = {f"vision_tower.embeddings.{name}_embedding.weight" for name in ("patch", "position")}
    found: dict[str, bytes] = {}
    for file in weight_files(Path(directory)):
        found |= _first_rows(file, wanted | tower)
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"the weights of {directory} lack {', '.join(missing)}: it is no whole LLaVA base")
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\n" + found[name])
    return digest.hexdigest()


def _first_rows(file: Path, wanted: set[str]) -> dict[str, bytes]:
    """Name → shape and first rows, of those weights of a file that are wanted."""
    found = {}
    try:
        with safe_open(file, framework="pt") as weights:
            for stored in weights.keys():  # noqa: SIM118 - not a dict
                name = present_name(stored)
                if name in wanted:
                    entry = weights.get_slice(stored)
                    values = entry[:ROWS].float().contiguous().numpy().astype("<f4").tobytes()
                    found[name] = f"{list(entry.get_shape())}\n".encode() + values
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is missing, cut off or no safetensors file ({error})") from error
    return found
