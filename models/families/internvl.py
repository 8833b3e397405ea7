"""InternVL3 in Hugging Face's format: a picture in up to a dozen tiles of one size, and small as a whole behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.base import Family, Grid
from models.families.llava_files import present_name
from models.image_settings import image_processor_name, read_image_settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

_PARTS = {"vision_config": ("internvl_vision",), "text_config": ("qwen2", "llama")}
_PROCESSOR = "GotOcr2ImageProcessor"
_MARKS = ("<img>", "</img>", "<video>")
_LINEAR = (
    *(f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "projection_layer")),
    *("mlp.fc1", "mlp.fc2"),
)


class InternVL(Family):
    """`InternVLForConditionalGeneration`. A grid is (tiles,)."""

    model_type = "internvl"
    title = "InternVL"
    architecture = "InternVLForConditionalGeneration"
    towers: ClassVar = {"vision tower": "model.vision_tower", "projector": "model.multi_modal_projector"}
    linear_elsewhere = (
        *(f"model.vision_tower.encoder.layer.0.{name}" for name in _LINEAR),
        *("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"),
    )
    vision_settings = (
        *("vision_feature_layer", "vision_feature_select_strategy"),
        *("downsample_ratio", "projector_hidden_act"),
    )
    vision_counts = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    no_tower = "it names no vision tower (vision_config)"
    known_by = ("multi_modal_projector.linear_1.weight", "vision_tower.embeddings.cls_token")
    known_by_if_there = ("vision_tower.embeddings.patch_embeddings.projection.weight",)
    present_name = staticmethod(present_name)

    @staticmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """As in the base class."""
        for part, known in _PARTS.items():
            found = fields.get(part, {}).get("model_type", known[0])
            if found not in known:
                raise ValueError(
                    f"{file}: {part} is a {found!r}, which is not supported (only {', '.join(known)})"
                )
        for name, wanted in {"vision_feature_select_strategy": "default", "vision_feature_layer": -1}.items():
            if fields.get(name, wanted) != wanted:
                raise ValueError(f"{file}: {name} {fields[name]!r} is not supported (only {wanted!r})")

    def check_folder(self, folder: Path) -> None:
        """As in the base class: tiles of the tower's size, whose patches can be joined to squares; marks that are tokens."""
        self._check_tower(folder / "config.json")
        file, settings = read_image_settings(folder)
        name, side = image_processor_name(settings, _PROCESSOR), self.config.vision_config.image_size[0]
        if name != _PROCESSOR:
            raise ValueError(
                f"{file}: the image processor {name!r} is not supported; {self.title} is trained with {_PROCESSOR}"
            )
        made = settings.get("size", {"height": 384, "width": 384})
        if made != {"height": side, "width": side}:
            raise ValueError(
                f"{file} makes tiles of {made}, the vision tower takes {side} x {side} (image_size in "
                f"{folder / 'config.json'}); fetch both from the same place"
            )
        if (folder / "tokenizer.json").is_file():
            for mark in _MARKS:
                if len(self.written(mark)) != 1:
                    raise ValueError(
                        f"{folder / 'tokenizer.json'}: {mark} is no token, which {self.title} writes around pictures; "
                        "fetch the base's own file"
                    )

    def _check_tower(self, file: Path) -> None:
        vision, ratio = self.config.vision_config, self.config.downsample_ratio
        (height, width), (rows, columns) = vision.image_size, vision.patch_size
        joined = round(1 / ratio) if ratio > 0 else 0
        if height != width or rows != columns or joined * ratio != 1 or height // rows % joined:
            raise ValueError(
                f"{file}: images of {height} x {width} in patches of {rows} x {columns} can't be joined to squares "
                f"(downsample_ratio {ratio})"
            )
        features = (height // rows // joined) ** 2
        if self.config.image_seq_length != features:
            raise ValueError(
                f"{file}: image_seq_length is {self.config.image_seq_length}, a tile has {features} features"
            )

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        yield from (f"multi_modal_projector.{name}.weight" for name in ("layer_norm", "linear_1", "linear_2"))
        yield from (
            f"vision_tower.embeddings.{name}" for name in ("cls_token", "patch_embeddings.projection.weight")
        )
        for layer in range(self.config.vision_config.num_hidden_layers):
            begin = f"vision_tower.encoder.layer.{layer}."
            yield from (f"{begin}{name}.weight" for name in (*_LINEAR, "layernorm_before", "layernorm_after"))
            yield from (f"{begin}{name}" for name in ("lambda_1", "lambda_2"))

    @property
    def begins_with_bos(self) -> bool:
        """As in the base class: Qwen2 has no such token."""
        return self.config.get_text_config().model_type != "qwen2"

    @property
    def fixed_positions(self) -> None:
        """As in the base class: the shape of a picture decides."""
        return None

    @cached_property
    def _marks(self) -> tuple[int, ...]:
        return tuple(index for mark in _MARKS for index in self.written(mark))

    def placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: between two marks the features of all tiles."""
        begin, end, _ = self._marks
        return [begin, *[self.image_token_id] * (self.config.image_seq_length * grid[0]), end]

    @staticmethod
    def load_image_processor(path: str | Path) -> BaseImageProcessor:
        """As in the base class; released files say that there are no tiles, and transformers' `InternVLProcessor` makes them."""
        from transformers import GotOcr2ImageProcessorPil

        return GotOcr2ImageProcessorPil.from_pretrained(path, crop_to_patches=True)

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """As in the base class."""
        return tuple((tiles,) for tiles in tensors["num_patches"].tolist())

    def positions(self, processor: BaseImageProcessor, size: tuple[int, int]) -> int:
        """As in the base class."""
        width, height = size
        return len(self.placeholder((processor.get_number_of_image_patches(height, width),)))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """As in the base class."""
        return (self.image_token_id, *self._marks)

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class."""
        tiles = model.get_image_features(pixel_values=pixels).pooler_output
        return [features.flatten(0, 1) for features in tiles.split([grid[0] for grid in grids])]

    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """As in the base class."""
        import torch

        return torch.zeros(1, 3, *self.config.vision_config.image_size), ((1,),)
