"""Pictures seen whole and in tiles besides: how LLaVA-NeXT and LLaVA-OneVision cut one up, known from its size.

Of the shapes that `image_grid_pinpoints` lists the one is taken that a picture fills best. Rows of features that would show
padding alone are left out, and a feature of the model's own ends each of those that stay.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.base import Family, Grid
from models.image_settings import image_processor_name, read_image_settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

Shapes = tuple[tuple[int, int], ...]


class TiledFamily(Family):
    """What both have in common. A grid is (the picture and its tiles, its height, its width).

    Attributes:
        processor: the class that makes its pixels, without what tells its implementations apart.
    """

    processor: ClassVar[str]
    squares_pictures = False  # of a LLaVA it would be True

    @property
    def fixed_positions(self) -> None:
        """As in the base class: the size of a picture decides."""
        return None

    @property
    def _shapes(self) -> Shapes:
        return tuple(map(tuple, self.config.image_grid_pinpoints))

    @abstractmethod
    def kept(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns that stay of as many of the tiles together, without their padding."""

    def placeholder(self, grid: Grid) -> Sequence[int]:
        """As in the base class: the whole picture, then the rows of its tiles, each with its end."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        rows, columns = self.kept(*_unpadded(grid[1:], self._shapes, vision.image_size, side))
        return [self.image_token_id] * (side * side + rows * (columns + 1))

    @classmethod
    def load_image_processor(cls, path: str | Path) -> BaseImageProcessor:
        """As in the base class; pictures of one call are padded to as many tiles."""
        import transformers

        return getattr(transformers, f"{cls.processor}Pil").from_pretrained(path, do_pad=True)

    def _grid(self, height: int, width: int) -> Grid:
        return (
            1 + _tiles((height, width), self._shapes, self.config.vision_config.image_size),
            height,
            width,
        )

    def grids(self, tensors: Mapping[str, Tensor]) -> tuple[Grid, ...]:
        """As in the base class."""
        return tuple(self._grid(height, width) for height, width in tensors["image_sizes"].tolist())

    def pixel_rows(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """As in the base class, without the tiles that a picture was padded with."""
        import torch

        pictures = zip(tensors["pixel_values"], self.grids(tensors), strict=True)
        return torch.cat([tiles[: grid[0]] for tiles, grid in pictures])

    def positions(self, processor: BaseImageProcessor, size: tuple[int, int]) -> int:
        """As in the base class."""
        width, height = size
        return len(self.placeholder((0, height, width)))

    def encode(self, model: PreTrainedModel, pixels: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """As in the base class; never with the number of pictures of a row, by which some pool their tiles away."""
        import torch

        sizes = torch.tensor([grid[1:] for grid in grids])
        return model.get_image_features(pixel_values=pixels, image_sizes=sizes).pooler_output

    def blank(self) -> tuple[Tensor, Sequence[Grid]]:
        """As in the base class."""
        import torch

        side = self.config.vision_config.image_size
        grid = self._grid(side, side)
        return torch.zeros(grid[0], 3, side, side), (grid,)


def check_tiles(folder: Path, family: TiledFamily) -> None:
    """Refuse another image processor, and shapes that are not made of the tower's pictures. Raises ValueError."""
    file, settings = read_image_settings(folder)
    name, config = image_processor_name(settings, family.processor), folder / "config.json"
    if name != family.processor:
        raise ValueError(
            f"{file}: the image processor {name!r} is not supported; {family.title} is trained with {family.processor}"
        )
    side, shapes = family.config.vision_config.image_size, family.config.image_grid_pinpoints
    for shape in shapes:
        if len(shape) != 2 or not all(isinstance(edge, int) and edge > 0 == edge % side for edge in shape):
            raise ValueError(
                f"{config}: image_grid_pinpoints lists {shape}, which is not made of tiles of {side} pixels (image_size)"
            )
    if settings.get("image_grid_pinpoints") != shapes:
        raise ValueError(
            f"{file}: image_grid_pinpoints is {_short(settings.get('image_grid_pinpoints'))}, {config} says "
            f"{_short(shapes)}; fetch both from the same place"
        )


def _short(shapes: Any) -> str:
    text = repr(shapes)
    return text if len(text) < 80 else f"{text[:80]}…"


@lru_cache(maxsize=4096)
def _tiles(size: tuple[int, int], shapes: Shapes, side: int) -> int:
    rows, columns = _arrangement(size, shapes, side)
    return rows * columns


@lru_cache(maxsize=4096)
def _unpadded(size: tuple[int, int], shapes: Shapes, image_side: int, side: int) -> tuple[int, int]:
    """Rows and columns of features that show the picture, of tiles of `side` x `side` features."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    rows, columns = _arrangement(size, shapes, image_side)
    # No numbers are needed to see what the model itself leaves out.
    return unpad_image(torch.empty(1, rows * side, columns * side, device="meta"), size).shape[1:]


def _arrangement(size: tuple[int, int], shapes: Shapes, side: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    return get_anyres_image_grid_shape(size, list(shapes), side)
