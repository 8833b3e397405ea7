"""Configuration of a base directory: is it a LLaVA in Hugging Face format, and what does it say. Reads no weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig


def check_base(path: str | Path) -> None:
    """Refuse a directory that `load_base` cannot load, reading only its `config.json`. Raises ValueError."""
    config_file = Path(path) / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{path} is not a model directory: it has no config.json")
    # Read as it is: a configuration class fills what an original checkpoint lacks with sizes of another model.
    try:
        fields = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config_file} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{config_file} holds a {type(fields).__name__}, not a JSON object")
    if fields.get("mm_vision_tower") is not None and "vision_config" not in fields:
        raise ValueError(
            f"{config_file} is an original LLaVA checkpoint (it names mm_vision_tower); convert it to the Hugging Face "
            f"format first: bash scripts/convert_checkpoint.sh --input {shlex.quote(str(path))} --vision_tower DIR --output DIR"
        )
    if fields.get("model_type") != "llava" or "vision_config" not in fields:
        raise ValueError(
            f"{config_file}: model_type {fields.get('model_type')!r} is not a LLaVA model in Hugging Face format "
            "(LlavaForConditionalGeneration)"
        )


def read_base_config(path: str | Path) -> PreTrainedConfig:
    """The configuration of a base, whose own code (if it brings any) is not run. Raises ValueError as `check_base` does."""
    check_base(path)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (
        Exception
    ) as error:  # transformers raises whatever its classes raise on values that they do not expect
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}/config.json can't be read ({reason}); fetch the base again") from error
