"""LLaVA-OneVision: as LLaVA-NeXT with a SigLIP tower, and features of many tiles shrunk to those of a few.

Its processor makes one small picture of each where a row has several, so that what a picture is depends on its neighbours.
Here it never does: rows of several pictures are refused instead of being read otherwise than the released models learned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from models.families.llava_files import check_sizes
from models.families.llava_next import LlavaNext
from models.families.tiles import check_tiles
from models.image_settings import read_image_settings

_PARTS = {"vision_config": "siglip_vision_model", "text_config": "qwen2"}
_MOST_TILES = re.compile(r"anyres_max_([1-9]\d*)")
_SHRINKS_FROM = 1.1  # edge of what there is, in edges of what there may be


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`."""

    model_type = "llava_onevision"
    title = "LLaVA-OneVision"
    architecture = "LlavaOnevisionForConditionalGeneration"
    processor = "LlavaOnevisionImageProcessor"
    towers: ClassVar = dict(LlavaNext.towers)
    vision_settings = (*LlavaNext.vision_settings, "vision_aspect_ratio")
    several_pictures = False
    served_with_adapters = False

    @staticmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """As in the base class."""
        for part, known in _PARTS.items():
            found = fields.get(part, {}).get("model_type", known)
            if found != known:
                raise ValueError(f"{file}: {part} is a {found!r}, which is not supported (only {known})")
        strategy = fields.get("vision_feature_select_strategy", "full")
        if strategy != "full":
            raise ValueError(
                f"{file}: vision_feature_select_strategy {strategy!r} would cut off a patch: the tower has no class token; "
                "only 'full' is supported"
            )
        ratio = fields.get("vision_aspect_ratio", "anyres_max_9")
        if not (isinstance(ratio, str) and _MOST_TILES.fullmatch(ratio)):
            raise ValueError(f"{file}: vision_aspect_ratio {ratio!r} is not supported (only anyres_max_N)")

    def check_folder(self, folder: Path) -> None:
        """As in the base class."""
        check_sizes(folder / "config.json", self.config)
        check_tiles(folder, self)
        (file, settings), side = read_image_settings(folder), self.config.vision_config.image_size
        made = settings.get("crop_size") or settings.get("size", {"height": 384, "width": 384})
        if made != {"height": side, "width": side}:
            raise ValueError(
                f"{file} makes tiles of {made}, the vision tower takes {side} x {side} (image_size in "
                f"{folder / 'config.json'}); fetch both from the same place"
            )

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        yield from (name for name in super().weight_names() if not name.endswith("class_embedding"))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """As in the base class."""
        return (self.image_token_id, self.config.video_token_id)

    def kept(self, rows: int, columns: int) -> tuple[int, int]:
        """As in the base class: those of so many tiles at most."""
        vision = self.config.vision_config
        most = int(_MOST_TILES.fullmatch(self.config.vision_aspect_ratio)[1])
        ratio = math.sqrt(rows * columns / (most * (vision.image_size // vision.patch_size) ** 2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > _SHRINKS_FROM else (rows, columns)
