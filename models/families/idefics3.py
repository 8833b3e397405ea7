"""Idefics3: a picture in tiles of one size and once more as a whole, each tile behind a mark that says where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.base import Family, Grid
from models.image_settings import image_processor_name, read_image_settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

LANGUAGE_MODEL = "llama"
_IMAGE, _AROUND, _WHOLE = "<image>", "<fake_token_around_image>", "<global-img>"
_PROCESSORS = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")  # which make the same pixels
_TILE, _EDGE, _LARGEST = (
    364,
    4 * 364,
    4096,
)  # what they take where their file says nothing, and at most
_BLOCK = (*(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")), "mlp.fc1", "mlp.fc2")
_NORMS = ("layer_norm1", "layer_norm2")


class Idefics3(Family):
    """`Idefics3ForConditionalGeneration`. A grid is (tiles and the whole, rows of tiles, their columns); no rows: the whole alone.

    Tiles are always full, so that the mask of pixels that the processor makes says nothing.
    """

    model_type = "idefics3"
    title = "Idefics3"
    architecture = "Idefics3ForConditionalGeneration"
    towers: ClassVar = {"vision tower": "model.vision_model", "projector": "model.connector"}
    language_part = "text_model"
    linear_elsewhere = (
        *(f"model.vision_model.encoder.layers.0.{name}" for name in _BLOCK),
        "model.connector.modality_projection.proj",
    )
    vision_settings = ("scale_factor",)
    vision_counts = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    no_tower = "it names no vision tower (vision_config)"
    known_by = (
        "connector.modality_projection.proj.weight",
        *(f"vision_model.embeddings.{name}_embedding.weight" for name in ("patch", "position")),
    )
    known_by_if_there = ()

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self._placeholders: dict[Grid, tuple[int, ...]] = {}

    @staticmethod
    def check_fields(file: Path, fields: dict[str, Any]) -> None:
        """As in the base class."""
        language = fields.get("text_config", {}).get("model_type", LANGUAGE_MODEL)
        if language != LANGUAGE_MODEL:
            raise ValueError(
                f"{file}: the language model {language!r} is not supported (only {LANGUAGE_MODEL})"
            )

    def check_folder(self, folder: Path) -> None:
        """As in the base class: the processor must make tiles as the tower takes them, and each must have its mark."""
        config, vision = folder / "config.json", self.config.vision_config
        file, settings = read_image_settings(folder)
        name = image_processor_name(settings, _PROCESSORS[0])
        if name not in _PROCESSORS:
            raise ValueError(
                f"{file}: the image processor {name!r} is not supported; {self.title} is trained with "
                f"{' or '.join(_PROCESSORS)}"
            )
        side, factor = vision.image_size // vision.patch_size, self.config.scale_factor
        if not isinstance(factor, int) or factor < 1 or side < 1 or side % factor:
            raise ValueError(
                f"{config}: scale_factor {factor!r} does not divide the {side} patches of a tile's side (image_size // patch_size)"
            )
        tile, edge = _longest_edge(settings, "max_image_size", _TILE), _longest_edge(settings, "size", _EDGE)
        if tile != vision.image_size:
            raise ValueError(
                f"{file} makes tiles of {tile} pixels (max_image_size), the vision tower takes {vision.image_size} "
                f"(image_size in {config}); fetch both from the same place"
            )
        # Of other edges transformers counts the tiles otherwise than it cuts them.
        if not isinstance(edge, int) or edge % tile or not tile <= edge <= _LARGEST:
            raise ValueError(
                f"{file}: size is {settings.get('size', _EDGE)}, its longest_edge must be a multiple of {tile} (max_image_size) up "
                f"to {_LARGEST}"
            )
        if not settings.get("do_resize", True):
            raise ValueError(f"{file}: do_resize is false; pictures must be resized to whole tiles")
        self._check_marks(folder / "tokenizer.json", edge // tile)

    def _check_marks(self, file: Path, tiles: int) -> None:
        marks = [_place(row, column) for row in range(tiles) for column in range(tiles)]
        try:
            missing = [mark for mark in (_IMAGE, _AROUND, _WHOLE, *marks) if mark not in self._control]
        except (
            Exception
        ):  # the library raises what it likes; who reads the vocabulary says what is wrong with the file
            return
        if missing:
            raise ValueError(
                f"{file} lacks {missing[0]}, which stands for a part of a picture of up to {tiles} x {tiles} tiles; fetch "
                "tokenizer and image processor from the same place"
            )

    def weight_names(self) -> Iterator[str]:
        """As in the base class."""
        yield from (*self.known_by, "vision_model.post_layernorm.weight")
        yield from (
            f"vision_model.encoder.layers.{layer}.{name}.weight"
            for layer in range(self.config.vision_config.num_hidden_layers)
            for name in (*_BLOCK, *_NORMS)
        )

    @staticmethod
    def present_name(stored: str) -> str:
        """As in the base class."""
        return stored.removeprefix("model.")

    @property
    def fixed_positions(self) -> None:
        """As in the base class: the shape of a picture decides."""
        return None

    def placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: the tiles row by row, each behind its mark, then the whole."""
        if grid not in self._placeholders:
            self._placeholders[grid] = self.written(self._marked(*grid[1:]))
        return self._placeholders[grid]

    def served_placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: the server writes tiles and marks."""
        return [self.image_token_id]

    def _marked(self, rows: int, columns: int) -> str:
        vision = self.config.vision_config
        tile = _IMAGE * (vision.image_size // vision.patch_size // self.config.scale_factor) ** 2
        lines = [
            "".join(f"{_AROUND}{_place(row, column)}{tile}" for column in range(columns)) + "\n"
            for row in range(rows)
        ]
        return "".join([*lines, "\n" if rows else "", _AROUND, _WHOLE, tile, _AROUND])

    @classmethod
    def load_image_processor(cls, path: str | Path) -> BaseImageProcessor:
        """As in the base class; it says how it cut each picture up."""
        from transformers import Idefics3ImageProcessorPil

        return Idefics3ImageProcessorPil.from_pretrained(path, return_row_col_info=True)

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """As in the base class."""
        shapes = zip(tensors["rows"][0], tensors["cols"][0], strict=True)
        return tuple((rows * columns + 1, rows, columns) for rows, columns in shapes)

    def pixel_rows(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """As in the base class: the pictures of a call come as those of one row."""
        return tensors["pixel_values"][0]

    def positions(self, processor: BaseImageProcessor, size: tuple[int, int]) -> int:
        """As in the base class."""
        width, height = size
        return len(self.placeholder(processor.get_number_of_image_patches(height, width)))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """As in the base class: images, and all marks around them."""
        marks = (
            index
            for token, index in self._control.items()
            if token in (_AROUND, _WHOLE) or token.startswith("<row_")
        )
        return (self.image_token_id, *marks)

    @cached_property
    def _control(self) -> dict[str, int]:
        return {token.content: index for index, token in self._tokenizer.get_added_tokens_decoder().items()}

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class."""
        # Not by `get_image_features`, which leaves out tiles of zeros.
        tiles = model.model.connector(model.model.vision_model(pixel_values=pixels).last_hidden_state)
        return [part.flatten(0, 1) for part in tiles.split([grid[0] for grid in grids])]

    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """As in the base class."""
        import torch

        return torch.zeros(1, 3, *[self.config.vision_config.image_size] * 2), ((1, 0, 0),)


def _longest_edge(settings: dict[str, Any], key: str, default: int) -> Any:
    """Whatever stands there where that is no number of pixels; None: nothing does."""
    size = settings.get(key, {"longest_edge": default})
    return size.get("longest_edge") if isinstance(size, dict) else None


def _place(row: int, column: int) -> str:
    return f"<row_{row + 1}_col_{column + 1}>"
