"""Pictures of requests: from the image folders of the service and from nowhere else on its disks, or sent as bytes."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.images import Pictures, check_image, image_size
from data_utils.problems import shorten
from llava_rlhf.reward_service.refusals import RefusedError

_DATA_URL = ";base64,"


@dataclass(frozen=True)
class Place:
    """Where a picture can be opened: a folder, and its name in it."""

    folder: Path
    name: str


class UnfitPictureError(Exception):
    """A picture that can't be used.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int = 422):
        super().__init__(message)
        self.status = status


class RequestPictures:
    """The pictures of one request; messages name no file that was not asked for, and no folder.

    Args:
        folders: image folders of the service.
        sent: name → place of a picture that came with the request; wins over a file of that name.
        max_pixels: width × height of a picture, at most.
    """

    def __init__(self, folders: Sequence[Path], sent: Mapping[str, Place], max_pixels: int):
        self._folders, self._sent, self._max_pixels = folders, sent, max_pixels
        self._found: dict[str, Place] = {}
        self._read: dict[Place, Pictures] = {}

    def find(self, name: str) -> Place:
        """Where the picture of this name is, after a look at it. Raises UnfitPictureError."""
        if name not in self._found:
            place = self._sent.get(name) or self._in_folders(name)
            # The header first: the check decodes some formats.
            width, height = _size(place)
            if width * height > self._max_pixels:
                raise UnfitPictureError(
                    f"is {width} × {height} pixels, at most {self._max_pixels} are accepted (--max_pixels_a_picture)",
                    413,
                )
            if reason := check_image(place.folder, place.name):
                raise UnfitPictureError(reason)
            self._found[name] = place
        return self._found[name]

    def pixels(self, place: Place, read: Callable[[Path, Sequence[str]], Pictures]) -> Pictures:
        """A picture as the base sees it, read once for all rows of the request. Raises UnfitPictureError."""
        if place not in self._read:
            try:
                self._read[place] = read(place.folder, [place.name])
            except ValueError:  # names the file, which the caller need not know
                raise UnfitPictureError("cannot be decoded; send another file") from None
        return self._read[place]

    def _in_folders(self, name: str) -> Place:
        # Before the disk is asked: whether a file elsewhere exists is nobody's business.
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise UnfitPictureError("must be a path relative to an image folder of the service, without '..'")
        for folder in self._folders:
            real = Path(os.path.realpath(folder / name))
            if not real.is_relative_to(os.path.realpath(folder)):
                raise UnfitPictureError(
                    "is a symbolic link out of the image folder; send its bytes in 'pictures'"
                )
            if os.path.isfile(real):
                return Place(folder, name)
        raise UnfitPictureError(
            "no such file in the image folders of the service; send its bytes in 'pictures'"
            if self._folders
            else "the service has no image folders; send the bytes in 'pictures'"
        )


def _size(place: Place) -> tuple[int, int]:
    """Width and height; 0 for what is no picture, of which the check says why."""
    try:
        return image_size(place.folder, place.name)
    except Exception:  # Pillow's readers raise whatever type they like on broken bytes
        return 0, 0


def keep_sent(pictures: Any, folder: Path) -> dict[str, Place]:
    """Write the pictures that came with a request into a folder of their own.

    Args:
        pictures: name → base64 of a picture file, or a data URL with it; None: none came.
        folder: to make; files get names of ours, never those of the request.

    Raises:
        RefusedError: 422, something else.
    """
    if pictures is None:
        return {}
    if not isinstance(pictures, dict):
        raise RefusedError(422, "pictures: must be an object, name → base64 of a picture file")
    places = {}
    folder.mkdir()
    for number, (name, text) in enumerate(pictures.items()):
        (folder / str(number)).write_bytes(_decoded(name, text))
        places[name] = Place(folder, str(number))
    return places


def _decoded(name: str, text: Any) -> bytes:
    where = f"pictures, {shorten(name)}"
    if not isinstance(text, str):
        raise RefusedError(422, f"{where}: must be base64 of a picture file, or a data URL with it")
    if text.startswith("data:"):
        text = text.partition(_DATA_URL)[2]
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise RefusedError(422, f"{where}: is no base64 of a picture file") from None
