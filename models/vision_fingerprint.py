"""Which features a base makes of pixels: a digest of every weight of its vision tower and projector, and their settings."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from models.base_kind import check_kind
from models.base_weights import present_name, weight_files

_VISION = re.compile(r"(vision_tower|multi_modal_projector)\.")
_SETTINGS = (
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "projector_hidden_act",
    "multimodal_projector_bias",
)


def vision_fingerprint(directory: str | Path) -> dict[str, Any]:
    """All that the features of an image depend on besides its pixels, as plain values for JSON.

    `weights` is a SHA-256 over all weights of tower and projector as float32 numbers: every one, because a tower that was
    trained further may differ anywhere. It reads 0.6 GB for CLIP ViT-L in 16 bits.

    Raises:
        ValueError: the directory is no LLaVA base, or holds no safetensors weights of tower and projector.
    """
    check_kind(directory)
    places: dict[str, tuple[Path, str]] = {}
    digest = hashlib.sha256()
    file = Path(directory)
    try:
        for file in weight_files(Path(directory)):
            with safe_open(file, framework="pt") as weights:
                places |= {present_name(stored): (file, stored) for stored in weights.keys()}  # noqa: SIM118
        names = sorted(name for name in places if _VISION.match(name))
        for name in names:
            file, stored = places[name]
            with safe_open(file, framework="pt") as weights:
                value = weights.get_tensor(stored).float().contiguous().numpy()
            digest.update(f"{name}\n{list(value.shape)}\n".encode() + value.astype("<f4").tobytes())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is missing, cut off or no safetensors file ({error})") from error
    parts = {name.split(".")[0] for name in names}
    if len(parts) < 2:
        raise ValueError(
            f"the weights of {directory} lack its vision tower or projector: it is no whole LLaVA base"
        )
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    return {
        "weights": digest.hexdigest(),
        "vision_config": config.vision_config.to_dict(),
        **{name: getattr(config, name) for name in _SETTINGS},
    }
