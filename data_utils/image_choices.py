"""How pictures become pixels, as far as a user may choose. Loads nothing: `--help` shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageChoices:
    """What is chosen; None: the way of the base.

    Attributes:
        image_aspect_ratio: how pictures are made square (`data_utils.images`).
        min_pixels, max_pixels: of a picture in its own shape, after it was resized.
    """

    image_aspect_ratio: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self):
        for name in ("min_pixels", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value}: must be at least 1")
        if None not in (self.min_pixels, self.max_pixels) and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"--min_pixels {self.min_pixels}: must be at most --max_pixels, which is {self.max_pixels}"
            )
