"""Files beside the weights of a family whose own processor, tokenizer and chat template already say what training did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import GenerationConfig

from llava_rlhf.assembly.image_choices import LIMITS
from llava_rlhf.assembly.roles import TextSide, unsampled_ids
from models.image_settings import NESTED_PROCESSOR_FILE, PROCESSOR_FILE, read_image_settings

READERS_FILES = (
    *(PROCESSOR_FILE, NESTED_PROCESSOR_FILE, "video_preprocessor_config.json"),
    *("chat_template.jinja", "chat_template.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenizer.model"),
)


def keep_own_files(folder: Path, base: Path, text: TextSide) -> None:
    """Give a model's or adapter's folder the files of its base that a reader needs, with the picture sizes of training.

    And a generation configuration with which `generate` stops where our sampling does; greedy.

    Args:
        folder: of the export.
        base: that the policy stands on.
        text: of the base, as training asked it.
    """
    for name in READERS_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if text.family.pixel_limits:
        _write_limits(folder, dict(zip(text.family.pixel_limits, _limits(text), strict=True)))
    own_generation_config(text).save_pretrained(folder)


def own_generation_config(text: TextSide) -> GenerationConfig:
    """Stops where our sampling does, and draws no token that it does not; greedy."""
    rows = text.family.config.get_text_config().vocab_size
    return GenerationConfig(
        bos_token_id=text.tokenizer.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.tokenizer.pad_token_id,
        suppress_tokens=unsampled_ids(text, rows).tolist(),
    )


def _limits(text: TextSide) -> tuple[int, int]:
    return tuple(getattr(text.image_choices, name) for name in LIMITS)


def _write_limits(folder: Path, size: dict[str, int]) -> None:
    """Write them into the image processor's settings, and take the older names of the same away."""
    file, settings = read_image_settings(folder)
    settings = {name: value for name, value in settings.items() if name not in LIMITS} | {"size": size}
    whole = json.loads(file.read_text(encoding="utf-8"))
    fields = whole | {"image_processor": settings} if file.name == NESTED_PROCESSOR_FILE else settings
    file.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
