"""The files that the original programs wrote: pickles that may hold nothing but tensors, and folders of weight shards.

Left out on purpose: pickles that need code to be run. Loading one would hand this machine to whoever wrote the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Pages of a mapped file that were read count as resident until the mapping goes, so a file is mapped afresh each time
# that this much of it was read.
MAPPED_BYTES = 256 * 2**20

WEIGHT_FILES = (("model", "safetensors"), ("pytorch_model", "bin"))  # stem and ending, in order of preference
# Names of number formats in safetensors files.
FORMATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLE_START = b"\x80"
_ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class StoredTensor:
    """What is known of a weight without reading it: its name, the file that holds it, number format and shape."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the values; a stored view of a larger block counts with what it shows."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def check_whole(path: Path) -> None:
    """Refuse a file that is missing, empty or a git-LFS pointer to the real one. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if not start:
        raise ValueError(f"{path} is empty; copy it again")
    if start == _LFS_POINTER:
        raise ValueError(
            f"{path} is a git-LFS pointer, not the file itself; run `git lfs pull` in its folder"
        )


def read_pickle(path: Path, mmap: bool = False) -> Any:
    """What `torch.save` wrote, on the CPU.

    Args:
        path: the file.
        mmap: map the tensors instead of reading them; a file in the format before torch 1.6 is read all the same.

    Raises:
        ValueError: the file is missing, empty, cut off, a git-LFS pointer, no pickle, or holds more than tensors and
            plain containers.
    """
    check_whole(path)
    mapped = mmap and _is_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler raises whatever type it likes on broken bytes
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted or _is_foreign_pickle(path, error):
            what = f"run code ({wanted[1]})" if wanted else "do more than hold tensors"
            raise ValueError(
                f"{path}: its pickle wants to {what}, which is refused; ask its author for safetensors"
            ) from error
        raise ValueError(f"{path} is cut off, corrupt or not a PyTorch file; copy it again") from error


def _is_foreign_pickle(path: Path, error: Exception) -> bool:
    """A pickle with instructions that tensors do not need, as opposed to bytes that are no pickle at all."""
    with path.open("rb") as file:
        is_pickle = file.read(len(_ZIP_START)).startswith((_ZIP_START, _PICKLE_START))
    return is_pickle and "Weights only load failed" in str(error)


def _is_zip(path: Path) -> bool:
    """Whether this is the format since torch 1.6, which can be mapped."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def open_weights(path: Path) -> dict[str, Tensor]:
    """Name → tensor of one weight file, mapped where the format allows: values are read when they are used.

    Raises ValueError as `read_pickle` does, and when an entry is no dense tensor.
    """
    if path.suffix == ".safetensors":
        file = _open_safetensors(path)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = read_pickle(path, mmap=True)
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds a {type(weights).__name__}, not a dict of weights by name")
    for name, value in weights.items():
        if not (isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided):
            raise ValueError(f"{path}: the entry {name!r} is a {type(value).__name__}, not a dense tensor")
    return weights


def refuse_two_formats(folder: Path) -> None:
    """Raise ValueError when a folder holds weights as safetensors and as pickles: they may differ.

    For models only: CLIP's own directories hold one model in many formats.
    """
    kinds = {
        ending: sorted(path.name for path in folder.glob(f"{stem}*.{ending}"))
        for stem, ending in WEIGHT_FILES
    }
    if all(kinds.values()):
        names = " and ".join(files[0] for files in kinds.values())
        raise ValueError(f"{folder} holds weights in two formats, {names}; move those of one format away")


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Every weight of a model folder by name, without its values; shards in order.

    Reads `model.safetensors` or `pytorch_model.bin`, in one file or in shards, with or without an index.

    Raises:
        ValueError: no weights, both one file and shards, a shard missing or broken, a weight in two shards, or an index
            that does not fit the shards.
    """
    headers: dict[str, StoredTensor] = {}
    files, index = _weight_files(folder)
    for path in files:
        for header in _headers_of(path):
            if header.name in headers:
                raise ValueError(
                    f"{header.name} is in two files, {headers[header.name].file} and {path.name}"
                )
            headers[header.name] = header
    _check_index(folder, index, headers)
    return headers


def read_tensors(stored: Iterable[StoredTensor]) -> Iterator[Tensor]:
    """The tensors of these headers, in their order. Sort them by file: a file is opened when it follows another.

    At most about `MAPPED_BYTES` of a mapped file, or one whole file in the old pickle format, is in memory at a time,
    provided that the caller keeps no tensor.
    """
    current, tensor_of, used = None, None, 0
    for item in stored:
        mapped = item.file.suffix == ".safetensors" or _is_zip(item.file)
        if item.file != current or (mapped and used + item.nbytes > MAPPED_BYTES):
            tensor_of = None  # lets go of the former mapping before there is another
            tensor_of, current, used = _reader(item.file), item.file, 0
        used += item.nbytes
        yield tensor_of(item.name)


def _reader(path: Path) -> Callable[[str], Tensor]:
    if path.suffix == ".safetensors":
        return _open_safetensors(path).get_tensor
    return open_weights(path).__getitem__


def _open_safetensors(path: Path) -> safe_open:
    check_whole(path)
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut off, corrupt or not a safetensors file; copy it again ({error})"
        ) from error


def _headers_of(path: Path) -> list[StoredTensor]:
    if path.suffix != ".safetensors":
        weights = open_weights(path)
        return [StoredTensor(name, path, value.dtype, tuple(value.shape)) for name, value in weights.items()]
    headers = []
    file = _open_safetensors(path)
    for name in file.keys():  # noqa: SIM118
        entry = file.get_slice(name)
        if entry.get_dtype() not in FORMATS:
            raise ValueError(
                f"{path}: {name} has the number format {entry.get_dtype()}, which is not supported"
            )
        headers.append(StoredTensor(name, path, FORMATS[entry.get_dtype()], tuple(entry.get_shape())))
    return headers


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Weight files in order, and the weight map of their index when there is one."""
    for stem, ending in WEIGHT_FILES:
        whole = folder / f"{stem}.{ending}"
        index = folder / f"{stem}.{ending}.index.json"
        shards = _complete_shards(folder, stem, ending)
        if whole.exists() and (shards or index.exists()):
            raise ValueError(f"{folder} holds {whole.name} and also shards of it; move one of them away")
        if whole.exists():
            return [whole], None
        if index.exists():
            weight_map = _read_index(index)
            named = sorted(set(weight_map.values()) | {path.name for path in shards})
            return [folder / name for name in named], weight_map
        if shards:
            return shards, None
    expected = " or ".join(f"{stem}[-00001-of-0000n].{ending}" for stem, ending in WEIGHT_FILES)
    raise ValueError(f"{folder} holds no weights; expected {expected}")


def _complete_shards(folder: Path, stem: str, ending: str) -> list[Path]:
    pattern = re.compile(rf"{stem}-(\d+)-of-(\d+)\.{ending}")
    found = {path: pattern.fullmatch(path.name) for path in sorted(folder.glob(f"{stem}-*"))}
    numbers = {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}
    totals = {total for _, total in numbers.values()}
    if len(totals) > 1:
        raise ValueError(f"{folder} holds shards of several models: {[path.name for path in numbers]}")
    missing = set(range(1, max(totals, default=0) + 1)) - {number for number, _ in numbers.values()}
    if missing:
        raise ValueError(
            f"{folder}: shard(s) {sorted(missing)} of {totals.pop()} of {stem}.{ending} are missing"
        )
    return list(numbers)


def _read_index(index: Path) -> dict[str, str]:
    check_whole(index)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {Path(file).name == file for file in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards: it has no readable weight_map") from error
    if names != {True}:
        raise ValueError(f"{index}: weight_map must name files beside it, got {sorted(weight_map.values())}")
    return weight_map


def _check_index(folder: Path, index: dict[str, str] | None, headers: dict[str, StoredTensor]) -> None:
    wrong = [
        name
        for name, file in (index or {}).items()
        if name not in headers or headers[name].file != folder / file
    ]
    if wrong:
        raise ValueError(
            f"{folder}: the index names {len(wrong)} weight(s) that are not in the file it says, such as {wrong[:5]}"
        )
