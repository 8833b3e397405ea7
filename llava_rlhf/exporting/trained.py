"""What a reader of an exported policy must do as its training did: template and padding, and the files that say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from data_utils.conversation import VERSIONS
from data_utils.image_choices import ImageChoices
from data_utils.images import ASPECT_RATIOS
from llava_rlhf.assembly.image_choices import check_choices
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.conversion.plain_files import (
    plain_generation_config,
    plain_processor,
    plain_tokenizer,
    save_plain_files,
)
from llava_rlhf.exporting.own_files import keep_own_files
from llava_rlhf.runs.role_files import EXPORTED_ARGUMENTS
from models.base_files import read_family

CONFIG = "config.json"


@dataclass(frozen=True)
class Trained:
    """How a policy was asked in training.

    Attributes:
        version: name of the conversation template.
        image_aspect_ratio: how pictures were made square; None: by nothing of ours.
        recorded: whether the run says so, not only the command line or a default.
        system_message: that the run put into the chat template of its base.
        min_pixels, max_pixels: limits of a picture's size; None: those of the base.
    """

    version: str = "v1"
    image_aspect_ratio: str | None = "pad"
    recorded: bool = False
    system_message: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None

    @property
    def image_choices(self) -> ImageChoices:
        """How pictures became pixels."""
        return ImageChoices(self.image_aspect_ratio, self.min_pixels, self.max_pixels)


def read_trained(
    record: Mapping[str, Any] | None,
    base: Path,
    version: str | None,
    image_aspect_ratio: str | None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Trained:
    """Look into the record of a policy's run; where it says nothing, flags, the base and our defaults speak, in this order.

    Args:
        record: arguments of the run, if there are any.
        base: an exported one has a record of its own, a converted one says how it saw pictures.
        version, image_aspect_ratio, min_pixels, max_pixels: of the command line.

    Raises:
        ValueError: the record says something else than the command line, or what nobody knows here.
    """
    run = (record or {}).get("DataArguments", {})
    before = _read(base / EXPORTED_ARGUMENTS).get("DataArguments", {})
    family = read_family(base)
    check_choices(ImageChoices(image_aspect_ratio, min_pixels, max_pixels), base, family)
    limits = _read_limits(run, {"min_pixels": min_pixels, "max_pixels": max_pixels})
    asked = {"version": version, "image_aspect_ratio": image_aspect_ratio}
    told = {"image_aspect_ratio": _read(base / CONFIG).get("image_aspect_ratio")}
    found = {}
    for name, known in (("version", VERSIONS), ("image_aspect_ratio", ASPECT_RATIOS)):
        if run.get(name) and asked[name] not in (None, run[name]):
            raise ValueError(
                f"--{name} {asked[name]}: the adapter was trained with {run[name]}; leave the flag out"
            )
        sources = (run.get(name), asked[name], before.get(name), told.get(name), getattr(Trained, name))
        found[name] = next(value for value in sources if value)
        if found[name] not in known:
            raise ValueError(
                f"{name} {found[name]!r} in the record of the adapter or of {base} is not one of {', '.join(known)}"
            )
    recorded = found.keys() <= run.keys()
    if not family.squares_pictures:
        found["image_aspect_ratio"] = None
    system_message = run.get("system_message") or before.get("system_message")
    return Trained(**found, recorded=recorded, system_message=system_message, **limits)


def _read_limits(run: Mapping[str, Any], asked: Mapping[str, int | None]) -> dict[str, int | None]:
    """Those of the record; where there is none, of the command line. Raises ValueError where these differ."""
    found = {}
    for name, value in asked.items():
        if name in run and value not in (None, run[name]):
            then = run[name] or "the limit of its base"
            raise ValueError(f"--{name} {value}: the adapter was trained with {then}; leave the flag out")
        found[name] = run.get(name) or value
    return found


def write_plain_files(folder: Path, base: Path, trained: Trained) -> None:
    """Processor, chat template, tokenizer and generation configuration for a policy on `base`, to be read by anybody.

    Args:
        folder: of the export; a merged model's `config.json` also learns how pictures are made square.
        base: that the policy stands on.
        trained: how it was asked.
    """
    text = load_text_side(base, trained.image_choices, trained.version, trained.system_message)
    if not text.family.squares_pictures:
        keep_own_files(folder, base, text)
        return
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    tokenizer = plain_tokenizer(text.tokenizer)
    processor = plain_processor(
        text.pipeline.processor, tokenizer, config, text.template, trained.image_aspect_ratio
    )
    save_plain_files(folder, processor, plain_generation_config(tokenizer, config))
    if (folder / CONFIG).is_file():
        fields = _read(folder / CONFIG) | {"image_aspect_ratio": trained.image_aspect_ratio}
        (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
