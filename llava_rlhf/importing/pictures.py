"""Pictures of rows → names in one image folder: files stay where they are, all others are written as files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from data_utils.file_signatures import SEEN, foreign_file
from data_utils.images import READ_FORMATS, check_image
from data_utils.pictures_elsewhere import is_base64_picture
from data_utils.row_fields import BadField
from llava_rlhf.importing.outcomes import Picture
from llava_rlhf.runs.save_errors import explaining_failures

MAX_BYTES = 1 << 28  # of one picture
REFERENCED, WRITTEN = "in --image_folder", "written beside the rows"
_ENDINGS = {
    "a JPEG picture": ".jpg",
    "a PNG picture": ".png",
    "a WebP picture": ".webp",
    "a GIF picture": ".gif",
    "a TIFF picture": ".tif",
}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)  # what unpacking says to bytes that were not packed so
_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w=-]+)*?;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?|s3|gs|hf)://", re.IGNORECASE)


class Archive:
    """Files by name in a zip or tar archive, read without unpacking it.

    Raises ValueError for a file that is neither, or a compressed tar, in which nothing can be looked up.
    """

    def __init__(self, path: Path):
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, tuple[int, int]] = {}  # of a tar: offset and size in bytes
        try:
            if zipfile.is_zipfile(path):
                self._zip = zipfile.ZipFile(path)
                return
            self._file = path.open("rb")
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        self._members[member.name.removeprefix("./")] = member.offset_data, member.size
                    tar.members = []  # it would keep them all
        except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
            remedy = "name a folder, a zip or an uncompressed tar (of a tar.gz: gunzip it first)"
            raise ValueError(
                f"--image_folder {path}: is no archive that can be read ({error}); {remedy}"
            ) from None

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none of this name. Raises ValueError for a damaged or huge one."""
        if self._zip is None:
            if name not in self._members:
                return None
            offset, size = self._members[name]
            _refuse_size(size)
            self._file.seek(offset)
            return self._file.read(size)
        try:
            _refuse_size(self._zip.getinfo(name).file_size)
            return self._zip.read(name)
        except KeyError:
            return None
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, *_DAMAGED) as error:
            raise ValueError(f"can't be read from the archive ({error})") from None


class Pictures:
    """The pictures of an import.

    All names are relative to one folder: `source` while every picture is a file there, else `target`.

    Args:
        source: folder or archive of the pictures that rows name; None: none was given.
        target: folder for pictures that are written.
        copy: write files too, so that rows may have both kinds.
        kind: which kind there was before, where the import goes on.
    """

    def __init__(self, source: str | None, target: Path, copy: bool = False, kind: str = ""):
        path = Path(source) if source else None
        self.archive = Archive(path) if path is not None and path.is_file() else None
        self.folder = path if path is not None and self.archive is None else None
        self.target, self.copy, self.kind = target, copy, kind
        self._reason = lru_cache(4096)(check_image)  # rows about one picture follow each other

    def name(self, picture: Picture) -> str:
        """The name of a picture in the image folder, written there where it is no file. Raises BadField."""
        if picture.names:
            return self._first(picture)
        content, name = self._content(picture, picture.value)
        if content is not None:
            return self._written(picture, content)
        return self._named(picture, name)

    def _first(self, picture: Picture) -> str:
        for name in picture.names:
            if self.archive is not None and (content := self._from_archive(picture, name)) is not None:
                return self._written(picture, content)
            if self.folder is not None and (self.folder / name).is_file():
                return self._named(picture, name)
        if self.archive is None and self.folder is None:
            raise BadField(
                picture.field, picture.value, "rows name pictures of COCO: give --image_folder", "no folder"
            )
        raise BadField(
            picture.field, picture.value, f"--image_folder has neither {' nor '.join(picture.names[:4])} …"
        )

    def _content(self, picture: Picture, value: Any) -> tuple[bytes | None, str]:
        """(bytes, "") of a picture that the row holds itself, (None, name) of a file."""
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                content = value["bytes"]
                content = _decoded(picture, content) if isinstance(content, str) else content
                if not isinstance(content, bytes):
                    raise BadField(f"{picture.field}.bytes", content, "must be bytes, or base64 as a text")
                return content, ""
            if value.get("path") is None:
                raise BadField(picture.field, value, "must have bytes or a path")
            value = value["path"]
        if isinstance(value, bytes):
            return value, ""
        if not isinstance(value, str) or not value.strip():
            raise BadField(
                picture.field, value, "must be a file name, or the picture itself as bytes or base64"
            )
        if _ADDRESS.match(value):
            remedy = "is an address, and nothing is fetched here: download it into --image_folder and name the file"
            raise BadField(picture.field, value, remedy, "image as address")
        url = _DATA_URL.match(value)
        if url is None and not is_base64_picture(value):
            return None, value
        return _decoded(picture, value[url.end() :] if url else value), ""

    def _named(self, picture: Picture, name: str) -> str:
        """The name of a file in --image_folder, checked; of a copy where files are copied."""
        if self.archive is not None:
            content = self._from_archive(picture, name)
            if content is None:
                raise BadField(picture.field, name, "--image_folder has no such file in the archive")
            return self._written(picture, content)
        if self.folder is None:
            raise BadField(
                picture.field, name, "is a file name: say where it lies with --image_folder", "no folder"
            )
        if os.path.isabs(name) and Path(name).is_relative_to(self.folder.absolute()):
            name = Path(name).relative_to(self.folder.absolute()).as_posix()
        if (reason := self._reason(self.folder, name)) is not None:
            raise BadField(picture.field, name, reason)
        if self.copy:
            return self._written(picture, (self.folder / name).read_bytes())
        self._agree(picture, REFERENCED)
        return PurePosixPath(name).as_posix()

    def _from_archive(self, picture: Picture, name: str) -> bytes | None:
        try:
            return self.archive.read(name.removeprefix("./"))
        except ValueError as error:
            raise BadField(picture.field, name, str(error)) from None

    def _written(self, picture: Picture, content: bytes) -> str:
        """The name of a picture that is written, after its content."""
        shown = f"{len(content)} bytes"
        found = foreign_file(content[:SEEN])
        ending = _ENDINGS.get(found[0]) if found else None
        ending = ending or (
            ".bmp" if content.startswith(b"BM") else ".ppm" if content[:2] in (b"P5", b"P6") else None
        )
        if ending is None:
            what = found[0] if found else "no picture of a known format" if content else "empty"
            raise BadField(picture.field, shown, f"is {what}; read are {READ_FORMATS}")
        self._agree(picture, WRITTEN)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{digest[:2]}/{digest[:32]}{ending}"
        path = self.target / name
        if not path.is_file() or path.stat().st_size != len(content):
            with explaining_failures("a picture", path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f"{path.name}.tmp")
                temporary.write_bytes(content)
                temporary.replace(path)
        if (reason := self._reason(self.target, name)) is not None:
            path.unlink()
            raise BadField(picture.field, shown, reason)
        return name

    def _agree(self, picture: Picture, kind: str) -> None:
        """All pictures lie in one folder, or none could be given to a program. Raises BadField."""
        self.kind = self.kind or kind
        if kind != self.kind:
            remedy = f"is {kind}, earlier ones are {self.kind}: --copy_images True puts all of them into one folder"
            raise BadField(picture.field, "this picture", remedy, "two folders")


def _decoded(picture: Picture, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadField(picture.field, text, f"is base64 that can't be decoded ({error})") from None


def _refuse_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
