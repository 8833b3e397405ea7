"""Features of images on disk: one memory-mapped safetensors file an image, written once, read by any number of processes.

An image is known by the SHA-256 of its file's bytes: a file that changes is another image, one that is copied, moved or
touched stays the same. Reading the bytes costs little beside decoding them, which is what a stored image is spared.

    <folder>/about.json                  what made these features
    <folder>/3f/3f09….safetensors        `features` bfloat16 [K, W] of the image whose file has this digest; `grid` int64 [G],
                                         how it is cut up, where images are not all alike
    <folder>/unfinished/                 files being written; what a killed process left there is removed later
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data_utils.images import ImagePipeline, Pictures

FEATURES, GRID = "features", "grid"
UNFINISHED = "unfinished"
SUFFIX = ".safetensors"
DTYPE = torch.bfloat16
STALE_SECONDS = 3600  # writing one takes far less

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredImages:
    """What is known of the n images of a row without decoding them.

    Attributes:
        keys: of each image its `content_key`.
        features: of each image bfloat16[K, W], or None where it has to be encoded.
    """

    keys: tuple[str, ...]
    features: tuple[Tensor | None, ...]


class FeatureFiles:
    """The features that one tower and projector make of images; safe under several processes and kills at any moment.

    A file gets its name when it is whole and on disk, and keeps it: who comes second takes what is there. So all processes
    that ask for an image see the same numbers. Trouble with the disk never stops a run: it is said once, and from then on
    nothing is stored.

    Args:
        folder: of this tower and projector; made where it is missing.
        shape: positions and width (K, W) of every image's features; K is None where images are not all alike.

    Raises:
        ValueError: the folder can neither be written nor has anything to read.
    """

    def __init__(self, folder: Path, shape: tuple[int | None, int]):
        self.folder = folder
        self.shape = shape
        self.writable = True
        self._said_damaged = False
        try:
            with self._temporary():
                pass
        except OSError as error:
            if not folder.is_dir() or not self.count():
                raise ValueError(
                    f"{folder} can't be made or written ({error}): name another folder"
                ) from error
            self._give_up(error)
        self._remove_stale()

    @property
    def bytes_per_image(self) -> int | None:
        """Size of one image's features; None where images are not all alike."""
        return None if self.shape[0] is None else self.shape[0] * self.shape[1] * DTYPE.itemsize

    def count(self) -> int:
        """Stored images."""
        return sum(
            entry.name.endswith(SUFFIX)
            for folder in os.scandir(self.folder)
            if folder.is_dir() and folder.name != UNFINISHED
            for entry in os.scandir(folder.path)
        )

    def load(self, key: str) -> Tensor | None:
        """Features bfloat16[K, W] of an image, memory-mapped; None when there are none, or only a damaged file."""
        found = self.load_with_grid(key)
        return None if found is None else found[0]

    def load_with_grid(self, key: str) -> tuple[Tensor, tuple[int, ...]] | None:
        """As `load`, and how the image is cut up; `()` where all are alike."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(
                path, framework="pt"
            ) as file:  # checks that names and sizes add up to the file's length
                features = file.get_tensor(FEATURES)
                grid = tuple(file.get_tensor(GRID).tolist()) if GRID in file.keys() else ()  # noqa: SIM118 - no dict
        except (SafetensorError, OSError) as error:
            return self._damaged(path, str(error))
        positions, width = self.shape
        expected = (len(features) if positions is None else positions, width)
        if features.dtype != DTYPE or tuple(features.shape) != expected or bool(grid) != (positions is None):
            return self._damaged(path, f"{features.dtype} {list(features.shape)} instead of {list(expected)}")
        return features, grid

    def store(self, key: str, features: Tensor, grid: Sequence[int] = ()) -> Tensor:
        """Keep the features of an image, rounded to bfloat16, and how it is cut up; return the features that are kept.

        That is what was there before, if anything sound was: another process may have been faster. Numbers that are not
        finite are given back, but not kept.
        """
        features = features.detach().to("cpu", DTYPE).contiguous()
        if (
            not self.writable or not features.isfinite().all()
        ):  # what is broken must not come back in later runs
            return features
        try:
            return self._write(self._path(key), key, features, grid)
        except OSError as error:
            self._give_up(error)
            return features

    def write_about(self, text: str) -> None:
        """Write `about.json`, unless it is there."""
        if self.writable and not (self.folder / "about.json").exists():
            with self._temporary() as temporary:
                temporary.write_text(text, encoding="utf-8")
                os.replace(temporary, self.folder / "about.json")

    def _write(self, path: Path, key: str, features: Tensor, grid: Sequence[int]) -> Tensor:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._temporary() as temporary:
            with temporary.open("wb") as file:
                cut = {GRID: torch.tensor(grid)} if len(grid) else {}
                file.write(save({FEATURES: features, **cut}))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                found = self.load(key)
                if found is not None:
                    return found
                os.replace(temporary, path)
            except OSError:  # a file system without hard links: the last one stays
                os.replace(temporary, path)
        return features

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A new empty file on the same file system, removed at the end if it is still there."""
        (self.folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.folder / UNFINISHED)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        for path in (self.folder / UNFINISHED).glob("*") if self.writable else ():
            try:
                if path.stat().st_mtime < time.time() - STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # somebody else was faster
                continue

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / (key + SUFFIX)

    def _damaged(self, path: Path, reason: str) -> None:
        if not self._said_damaged:
            self._said_damaged = True
            logger.warning("%s is damaged (%s): such images are encoded again", path, reason)

    def _give_up(self, error: OSError) -> None:
        self.writable = False
        logger.warning("%s: features are no longer stored, only read (%s)", self.folder, error)


def content_key(path: str | Path) -> str:
    """SHA-256 of a file's bytes. Raises ValueError when it can't be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}); replace it or drop its rows") from error


def read_images(
    pipeline: ImagePipeline, files: FeatureFiles | None, folder: str | Path, names: Sequence[str]
) -> tuple[Pictures, StoredImages | None]:
    """The m images whose features are not stored, in order, with the grids of all n; and what is known of all n.

    Without `files` all are decoded, and nothing is known (None).
    """
    if files is None:
        return pipeline(folder, names), None
    keys = tuple(content_key(Path(folder, name)) for name in names)
    known = [files.load_with_grid(key) for key in keys]
    missing = {name: key for name, key, found in zip(names, keys, known, strict=True) if found is None}
    pictures = pipeline(folder, [name for name, found in zip(names, known, strict=True) if found is None])
    if any(content_key(Path(folder, name)) != key for name, key in missing.items()):
        # Replaced between reading and decoding: these pixels must not be kept under the digest of others.
        return read_images(pipeline, files, folder, names)
    if pictures.grids is not None:
        new = iter(pictures.grids)
        pictures = pictures._replace(grids=tuple(next(new) if found is None else found[1] for found in known))
    return pictures, StoredImages(keys, tuple(None if found is None else found[0] for found in known))
