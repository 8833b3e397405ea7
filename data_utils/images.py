"""The only place that opens an image: checks it, pads it to a square, makes pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

ASPECT_RATIOS = ("pad", "square")


def check_image(folder: str | Path, name: str) -> str | None:
    """Why the image `folder/name` cannot be used, or None when it can.

    Reads the file's header and structure only, so that a whole data set is checked in minutes.
    """
    path, reason = _locate(folder, name)
    if reason:
        return reason
    try:
        with Image.open(path) as image:
            cut_off = image.format == "JPEG" and not _ends_like_jpeg(path)
            image.verify()
        # `verify` does not notice a JPEG that stops half-way; only suspects are decoded, which is slow.
        if cut_off:
            with Image.open(path) as image:
                image.load()
    except Exception as error:  # Pillow's decoders raise whatever type they like on broken bytes
        return f"unreadable image ({type(error).__name__}: {error})"
    return None


def _ends_like_jpeg(path: Path) -> bool:
    """Whether an end-of-image marker stands among the last bytes (some writers append a little after it)."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        return b"\xff\xd9" in file.read()


class ImagePipeline:
    """Files → pixels of one vision tower.

    `pad` centres the image on a square of the processor's mean colour first, so that nothing is cropped;
    `square` gives the processor the image as it is (CLIP's: shorter edge resized, centre cropped).
    Raises ValueError on an unknown mode, and on an image that cannot be decoded.
    """

    def __init__(self, processor: BaseImageProcessor, image_aspect_ratio: Literal["pad", "square"] = "pad"):
        if image_aspect_ratio not in ASPECT_RATIOS:
            raise ValueError(f"image_aspect_ratio {image_aspect_ratio!r}: must be one of {ASPECT_RATIOS}")
        self.processor = processor
        self.image_aspect_ratio = image_aspect_ratio
        self._background = tuple(int(channel * 255) for channel in processor.image_mean)

    def __call__(self, folder: str | Path, names: Sequence[str]) -> torch.Tensor:
        """Pixels float32 [n, 3, H, W] of n images, in order; n may be 0."""
        if not names:
            return torch.zeros(0, 3, *self.size)
        images = [self._open(folder, name) for name in names]
        return self.processor(images=images, return_tensors="pt")["pixel_values"].float()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of what comes out."""
        size = self.processor.crop_size if self.processor.do_center_crop else self.processor.size
        return size["height"], size["width"]

    def _open(self, folder: str | Path, name: str) -> Image.Image:
        path, reason = _locate(folder, name)
        if reason:
            raise ValueError(f"{name}: {reason}")
        try:
            with Image.open(path) as image:
                image = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: cannot be decoded ({error}); replace it or drop its rows") from error
        return _pad_to_square(image, self._background) if self.image_aspect_ratio == "pad" else image


def _locate(folder: str | Path, name: str) -> tuple[Path, str | None]:
    path = Path(folder, name)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return path, "must be a path relative to the image folder, without '..'"
    if not path.is_file():
        return path, f"no such file in the image folder {folder}"
    return path, None


def _pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
