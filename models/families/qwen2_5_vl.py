"""Qwen2.5-VL: pictures in their own resolution, and positions of three dimensions (moment, row, column)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.base import Family, Grid, Place
from models.image_settings import image_processor_name, read_image_settings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

_BLOCK = (
    *("attn.qkv", "attn.proj", "norm1", "norm2"),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)
_MERGER = ("merger.ln_q", "merger.mlp.0", "merger.mlp.2")


class Qwen25VL(Family):
    """`Qwen2_5_VLForConditionalGeneration`. A grid is (patches, their rows, their columns)."""

    model_type = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    processor = "Qwen2VLImageProcessor"
    towers: ClassVar = {"vision tower": "model.visual"}
    linear_elsewhere = tuple(
        f"model.visual.{name}"
        for name in (
            *(f"blocks.0.{name}" for name in _BLOCK if "norm" not in name),
            *(name for name in _MERGER if "mlp" in name),
        )
    )
    vision_settings = ()
    vision_counts = ("depth", "hidden_size", "num_heads", "patch_size", "spatial_merge_size")
    no_tower = "it names no vision tower (vision_config)"
    known_by = ("visual.merger.mlp.0.weight", "visual.patch_embed.proj.weight")
    known_by_if_there = ()
    pixel_limits = ("shortest_edge", "longest_edge")
    begins_with_bos = False

    @staticmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """As in the base class."""
        for part in (fields, fields.get("text_config", {})):
            if part.get("use_sliding_window"):
                raise ValueError(
                    f"{file}: use_sliding_window {part['use_sliding_window']!r}: attention to a window only is not supported"
                )

    def check_folder(self, folder: Path) -> None:
        """As in the base class: the processor must cut a picture up as the tower takes it."""
        file, settings = read_image_settings(folder)
        name = image_processor_name(settings, self.processor)
        if name != self.processor:
            raise ValueError(
                f"{file}: the image processor {name!r} is not supported; {self.title} is trained with {self.processor}"
            )
        vision = self.config.vision_config
        for ours, theirs in {
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        }.items():
            if settings.get(ours, theirs) != theirs:
                raise ValueError(
                    f"{file}: {ours} is {settings[ours]!r}, the vision tower takes {theirs} (vision_config in "
                    f"{folder / 'config.json'}); fetch both from the same place"
                )

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        yield "visual.patch_embed.proj.weight"
        yield from (f"visual.{name}.weight" for name in _MERGER)
        yield from (
            f"visual.blocks.{layer}.{name}.weight"
            for layer in range(self.config.vision_config.depth)
            for name in _BLOCK
        )

    @staticmethod
    def present_name(stored: str) -> str:
        """As in the base class; published files say `model.layers.x` and `visual.x`."""
        return re.sub(r"^(layers|embed_tokens|norm)\.", r"language_model.\1.", stored.removeprefix("model."))

    @property
    def fixed_positions(self) -> None:
        """As in the base class: the size of a picture decides."""
        return None

    @staticmethod
    def vision_layers(config: PreTrainedConfig) -> int:
        """As in the base class."""
        return config.vision_config.depth

    @staticmethod
    def shorten(config: PreTrainedConfig, layers: int, vision_layers: int) -> None:
        """As in the base class: a vision layer that sees the whole picture stays."""
        text, vision = config.get_text_config(), config.vision_config
        text.num_hidden_layers, text.layer_types = layers, text.layer_types[:layers]
        vision.depth, vision.fullatt_block_indexes = vision_layers, [0]

    def placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: between two marks one position for each square of merged patches."""
        config = self.config
        positions = grid[0] // config.vision_config.spatial_merge_size**2
        return [config.vision_start_token_id, *[self.image_token_id] * positions, config.vision_end_token_id]

    @staticmethod
    def load_image_processor(path: str | Path) -> BaseImageProcessor:
        """As in the base class."""
        from transformers import Qwen2VLImageProcessorPil

        return Qwen2VLImageProcessorPil.from_pretrained(path)

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """As in the base class."""
        return tuple((t * h * w, h, w) for t, h, w in tensors["image_grid_thw"].tolist())

    def positions(self, processor: BaseImageProcessor, size: tuple[int, int]) -> int:
        """As in the base class."""
        width, height = size
        return len(self.placeholder((processor.get_number_of_image_patches(height, width),)))

    def served_picture(self, processor: BaseImageProcessor, picture: Image, grid: Grid) -> Image:
        """As in the base class."""
        patch = self.config.vision_config.patch_size
        return picture.resize((grid[2] * patch, grid[1] * patch), int(processor.resample))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """As in the base class."""
        config = self.config
        marks = (config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
        return (self.image_token_id, *marks)

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class."""
        found = model.get_image_features(pixel_values=pixels, image_grid_thw=self.thw(grids, pixels.device))
        return found.pooler_output

    @staticmethod
    def thw(grids: Sequence[Grid], device: torch.device) -> Tensor:
        """int64[N, 3]: grids as the model wants them, moments first."""
        import torch

        return torch.tensor([(1, rows, columns) for _, rows, columns in grids], device=device)

    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """As in the base class."""
        import torch

        vision, side = self.config.vision_config, self.config.vision_config.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return torch.zeros(side * side, width), ((side * side, side, side),)

    def place(self, grid: Grid) -> Place:
        """As in the base class."""
        side = self.config.vision_config.spatial_merge_size
        return _place(grid[1] // side, grid[2] // side)


def _place(rows: int, columns: int) -> Place:
    import torch

    relative = torch.stack(
        [
            torch.zeros(rows * columns, dtype=torch.long),
            torch.arange(rows).repeat_interleave(columns),
            torch.arange(columns).repeat(rows),
        ]
    )
    return Place(relative, max(rows, columns))
