"""LLaVA-NeXT (LLaVA 1.6): LLaVA's tower and projector, on a picture and on its tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from models.families.llava import Llava
from models.families.llava_files import check_crop, check_parts, check_sizes
from models.families.tiles import TiledFamily, check_tiles


class LlavaNext(TiledFamily, Llava):
    """`LlavaNextForConditionalGeneration`."""

    model_type = "llava_next"
    title = "LLaVA-NeXT"
    architecture = "LlavaNextForConditionalGeneration"
    processor = "LlavaNextImageProcessor"
    towers: ClassVar = {**Llava.towers, "end of a row of features": "model.image_newline"}
    vision_settings = (*Llava.vision_settings, "image_grid_pinpoints")
    no_tower = "it names no vision tower (vision_config)"
    known_by = (*Llava.known_by, "image_newline")

    @staticmethod
    def check_age(folder: Path, fields: dict[str, Any]) -> None:
        """As in the base class: nothing, `Llava` speaks for all originals."""

    @staticmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """As in the base class."""
        check_parts(file, fields)
        if fields.get("vision_feature_select_strategy", "default") != "default":
            raise ValueError(
                f"{file}: vision_feature_select_strategy 'full': tiles are put together without the class token; "
                "only 'default' is supported"
            )

    def check_folder(self, folder: Path) -> None:
        """As in the base class."""
        check_sizes(folder / "config.json", self.config)
        check_tiles(folder, self)
        check_crop(folder, self.config.vision_config.image_size)

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        yield from super().weight_names()
        yield "image_newline"

    @property
    def begins_with_bos(self) -> bool:
        """As in the base class: Qwen2 has no such token."""
        return self.config.get_text_config().model_type != "qwen2"

    def kept(self, rows: int, columns: int) -> tuple[int, int]:
        """As in the base class: all of them."""
        return rows, columns
