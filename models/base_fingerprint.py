"""Which weights a base has, told by a few of them: an adapter means nothing on a base with others."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from models.base_files import read_family
from models.base_weights import weight_files
from models.families.base import Family
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
    family = read_family(directory)
    layers = family.config.get_text_config().num_hidden_layers
    linear = (f"{'mlp' if name in _MLP else 'self_attn'}.{name}" for name in LANGUAGE_MODEL_LINEAR_LAYERS)
    inner = [f"layers.{layer}.{name}" for name in linear for layer in sorted({0, layers - 1})]
    wanted = {f"{family.language_part}.{name}.weight" for name in ("embed_tokens", *inner, "norm")}
    wanted.update(family.known_by)
    found: dict[str, bytes] = {}
    for file in weight_files(Path(directory)):
        found |= _first_rows(file, family, wanted | set(family.known_by_if_there))
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(
            f"the weights of {directory} lack {', '.join(missing)}: it is no whole {family.title} base"
        )
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\n" + found[name])
    return digest.hexdigest()


def _first_rows(file: Path, family: Family, wanted: set[str]) -> dict[str, bytes]:
    """Name → shape and first rows, of those weights of a file that are wanted."""
    found = {}
    try:
        with safe_open(file, framework="pt") as weights:
            for stored in weights.keys():  # noqa: SIM118 - not a dict
                name = family.present_name(stored)
                if name in wanted:
                    entry = weights.get_slice(stored)
                    values = entry[:ROWS].float().contiguous().numpy().astype("<f4").tobytes()
                    found[name] = f"{list(entry.get_shape())}\n".encode() + values
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is missing, cut off or no safetensors file ({error})") from error
    return found
