"""What a base's folder says of how its pictures become pixels: `preprocessor_config.json`, or the newer file around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.json_objects import read_object

PROCESSOR_FILE, NESTED_PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"


def read_image_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that transformers reads, and what it says of images. Raises ValueError where there is none."""
    nested, own = folder / NESTED_PROCESSOR_FILE, folder / PROCESSOR_FILE
    if nested.is_file():
        settings = read_object(nested).get("image_processor")
        if isinstance(settings, dict):
            return nested, settings
    if own.is_file():
        return own, read_object(own)
    raise ValueError(
        f"{folder} has no {PROCESSOR_FILE} (nor an image_processor in {NESTED_PROCESSOR_FILE}): how its images become "
        "pixels is not known; fetch it"
    )


def image_processor_name(settings: dict[str, Any], default: str) -> str:
    """The class that these settings name, without what tells its implementations apart."""
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type") or default
    return str(name).removesuffix("Fast").removesuffix("Pil")
