"""The only place that opens an image: checks it, sets it upright, pads it, makes pixels, or a copy for a browser."""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_utils.file_signatures import PICTURE, SEEN, foreign_file
from data_utils.near_names import near_name

if TYPE_CHECKING:  # heavy, and who only checks or copies pictures needs neither
    import torch
    from transformers.image_processing_utils import BaseImageProcessor

ASPECT_RATIOS = ("pad", "square")
# Pillow reads more, some of it by starting other programs. Pictures of several views (MPO) are opened as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
READ_FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF and PPM; convert it to PNG or JPEG"
_READ_PICTURES = {f"a {name} picture" for name in ("JPEG", "PNG", "WebP", "GIF", "TIFF")}
MAX_SIDE = 10_000  # pixels: as a square that is 300 MB, in each data-loader worker
MAX_STRETCH = 100  # longer side / shorter side: what the shorter side is enlarged by, the longer one is too
_NO_RANGE = ("I", "F")  # 32-bit numbers: which one is white, nobody knows
LOSSLESS_SIDE = 512  # copies of pictures up to this many pixels a side keep every pixel


@dataclass(frozen=True)
class ImageChecks:
    """How images are checked before a model is loaded.

    Attributes:
        decode_all: decode every image, not only those whose structure leaves a doubt.
        follow_links: accept symbolic links that lead out of the image folder.
    """

    decode_all: bool = False
    follow_links: bool = False


QUICK_CHECKS = ImageChecks()


def check_image(folder: str | Path, name: str, checks: ImageChecks = QUICK_CHECKS) -> str | None:
    """Why the image `folder/name` cannot be used, or None when it can.

    Reads header and structure only where these tell a whole file from a cut-off one (PNG, JPEG), so that a large data
    set is checked in minutes; files of other formats are decoded.
    """
    path, reason = _locate(folder, name)
    if not reason and not checks.follow_links and _leaves(folder, path):
        reason = "is a symbolic link out of the image folder; copy the file, or --follow_image_links True"
    if reason:
        return reason
    try:
        if not path.stat().st_size:
            return "the file is empty"
        with Image.open(path, formats=FORMATS) as image:
            reason = _unfit(image)
            decode = checks.decode_all or not _shows_cuts(image, path)
            image.verify()
        if decode and not reason:
            _open_upright(path)
    except UnidentifiedImageError:
        return f"unreadable image (UnidentifiedImageError: {_what_it_is(path)}); read are {READ_FORMATS}"
    except Image.DecompressionBombError as error:
        return f"has too many pixels ({error}); shrink it"
    except Exception as error:  # Pillow's decoders raise whatever type they like on broken bytes
        return f"unreadable image ({type(error).__name__}: {error})"
    return reason


def image_size(folder: str | Path, name: str) -> tuple[int, int]:
    """Width and height of the upright image `folder/name`, from its header."""
    with Image.open(Path(folder, name), formats=FORMATS) as image:
        width, height = image.size
        try:
            sideways = image.getexif().get(0x0112) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF is common and says nothing of the picture
            sideways = False
    return (height, width) if sideways else (width, height)


def browser_copy(
    folder: str | Path, name: str, longest_side: int = 1024, lossless_side: int = LOSSLESS_SIDE
) -> str:
    """A data URL with a new encoding of the image `folder/name`, shrunk to at most `longest_side` pixels.

    Copies of more than `lossless_side` pixels are JPEG, which takes less room than PNG. The pixels are those the model sees, and nothing of the file but them. Raises ValueError as `ImagePipeline` does.
    """
    image = small_copy(folder, name, longest_side)
    file = io.BytesIO()
    kind = "png" if max(image.size) <= lossless_side else "jpeg"
    image.save(file, kind, **({} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def small_copy(folder: str | Path, name: str, longest_side: int) -> Image.Image:
    """The image `folder/name` as the model sees it, shrunk to at most `longest_side` pixels. Raises ValueError as `ImagePipeline` does."""
    image = _open_image(folder, name)
    image.thumbnail((longest_side, longest_side))
    return image


def image_data_url(path: Path) -> str:
    """A data URL of an image file as it is; its kind is that of its name, or where that says none, of its content."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        with Image.open(path, formats=FORMATS) as image:
            kind = image.get_format_mimetype()
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


class Pictures(NamedTuple):
    """What becomes of n images.

    Attributes:
        pixels: float32 [ΣP, …], the P rows of each image one behind the other.
        grids: of each image a few integers that say how it is cut up, of which the first is P; None where all are alike,
            one row each.
    """

    pixels: torch.Tensor
    grids: tuple[tuple[int, ...], ...] | None = None


class ImagePipeline:
    """Files → pixels of one vision tower.

    `pad` centres the image on a square of the processor's mean colour first, so that nothing is cropped;
    `square` gives the processor the image as it is (CLIP's: shorter edge resized, centre cropped); so does None, where a
    family has no choice.
    Of an animation the first frame is taken, of 16 bits a channel the upper 8, and EXIF says which side is up.
    `cut` reads from the processor's tensors the rows of pixels of all images, and how each is cut up; None: all are alike.
    Raises ValueError on an unknown mode, and on an image that cannot be decoded.
    """

    def __init__(
        self,
        processor: BaseImageProcessor,
        image_aspect_ratio: Literal["pad", "square"] | None = "pad",
        cut: Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, tuple[tuple[int, ...], ...]]]
        | None = None,
    ):
        if image_aspect_ratio not in (*ASPECT_RATIOS, None):
            raise ValueError(f"image_aspect_ratio {image_aspect_ratio!r}: must be one of {ASPECT_RATIOS}")
        self.processor = processor
        self.image_aspect_ratio = image_aspect_ratio
        self._cut = cut
        self._pads = image_aspect_ratio == "pad"
        self._background = tuple(int(channel * 255) for channel in processor.image_mean)

    def __call__(self, folder: str | Path, names: Sequence[str]) -> Pictures:
        """The pixels of n images, in order; n may be 0."""
        if not names:
            import torch

            return (
                Pictures(torch.zeros(0, 3, *self.size)) if self._cut is None else Pictures(torch.zeros(0), ())
            )
        tensors = self.tensors(folder, names)
        pixels, grids = (tensors["pixel_values"], None) if self._cut is None else self._cut(tensors)
        return Pictures(pixels.float(), grids)

    def tensors(self, folder: str | Path, names: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """All that the image processor makes of n images, at least one."""
        return self.processor(images=[self.opened(folder, name) for name in names], return_tensors="pt")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of what comes out, where all images are alike."""
        size = self.processor.crop_size if self.processor.do_center_crop else self.processor.size
        return size["height"], size["width"]

    def opened(self, folder: str | Path, name: str) -> Image.Image:
        """The image as the processor is given it."""
        image = _open_image(folder, name)
        return _pad_to_square(image, self._background) if self._pads else image


# The model card prints this function word for word: it stands by itself, and opens what it trusts.
def open_picture(file):
    """A picture as the model was trained on: upright, 8 bits a channel, transparency ignored."""
    picture = ImageOps.exif_transpose(Image.open(file))
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda value: value / 256)
    return picture.convert("RGB")


def _open_image(folder: str | Path, name: str) -> Image.Image:
    path, reason = _locate(folder, name)
    if reason:
        raise ValueError(f"{name}: {reason}")
    try:
        return _open_upright(path)
    except UnidentifiedImageError:
        raise ValueError(
            f"{path}: cannot be decoded ({_what_it_is(path)}); read are {READ_FORMATS}"
        ) from None
    except Exception as error:  # as above
        raise ValueError(f"{path}: cannot be decoded ({error}); replace it or drop its rows") from error


def _locate(folder: str | Path, name: str) -> tuple[Path, str | None]:
    path = Path(folder, name)
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        return path, "must be a path relative to the image folder, without '..'"
    try:
        found = path.is_file()
    except OSError as error:  # a name too long, a folder that may not be entered
        return path, f"can't be read ({error.strerror})"
    if found:
        return path, None
    near = near_name(folder, name)
    return path, f"no such file in the image folder {folder}" + (f"; {near}" if near else "")


def _what_it_is(path: Path) -> str:
    """What a file is that no decoder knows."""
    with path.open("rb") as file:
        head = file.read(SEEN)
    found = foreign_file(head)
    if found is None:
        return "no picture of a known format"
    # A picture of a format that is read, and yet no decoder knows it: damaged.
    return (
        f"it begins like {found[0]}"
        if found[1] == PICTURE and found[0] in _READ_PICTURES
        else f"it is {found[0]}"
    )


def _leaves(folder: str | Path, path: Path) -> bool:
    """Whether links lead out of the folder; that the folder itself is reached by links is no matter."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _unfit(image: Image.Image) -> str | None:
    """Why an image that can be read can't be used, or None; header only."""
    width, height = image.size
    long, short = max(image.size), max(1, min(image.size))
    if long > MAX_SIDE:
        return f"is {width} × {height} pixels, at most {MAX_SIDE} a side are accepted; shrink it"
    if long > MAX_STRETCH * short:
        return f"is {width} × {height} pixels, one side more than {MAX_STRETCH} times the other; crop it"
    if image.mode in _NO_RANGE:
        return f"has pixels of 32 bits (mode {image.mode}), whose white is unknown; save it with 8 bits"
    return None


def _shows_cuts(image: Image.Image, path: Path) -> bool:
    """Whether a file was seen not to stop half-way, or `Image.verify` will see it."""
    if image.format in ("JPEG", "MPO"):
        return _ends_like_jpeg(path)
    return image.format == "PNG"  # chunks have check sums


def _ends_like_jpeg(path: Path) -> bool:
    """Whether an end-of-image marker stands among the last bytes (some writers append a little after it)."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        return b"\xff\xd9" in file.read()


def _open_upright(path: Path) -> Image.Image:
    """The first frame in 8-bit RGB, turned as its EXIF orientation says. Raises whatever Pillow raises."""
    with Image.open(path, formats=FORMATS) as image:
        reason = _unfit(image)
        if reason:
            raise ValueError(reason)
        image.load()
        return _eight_bits(_upright(image)).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is common and says nothing of the picture
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow takes the upper byte of 16-bit colours itself, but cuts 16-bit greys off at 255: nearly all white.
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    width, height = image.size
    square = Image.new("RGB", (max(image.size),) * 2, colour)
    square.paste(image, ((square.width - width) // 2, (square.height - height) // 2))
    return square
