"""Weights → safetensors files, one tensor at a time: neither an output file nor an input file is ever whole in memory.

Written out, because `safetensors.torch.save_file` needs all tensors of a file at once.
Format: github.com/huggingface/safetensors, section "Format": the header's length (uint64, little endian), the header
(JSON: number format, shape and byte range of each tensor), the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from tqdm import tqdm

from llava_rlhf.conversion.original_files import FORMATS, read_tensors
from llava_rlhf.conversion.weight_plan import TargetWeight

MAX_SHARD_BYTES = 5 * 10**9
_FORMAT_NAMES = {dtype: name for name, dtype in FORMATS.items()}
_HEADER_MULTIPLE = 8


def write_shards(weights: Sequence[TargetWeight], folder: Path, max_shard_bytes: int) -> None:
    """Write `model.safetensors`, or shards of at most `max_shard_bytes` (and at least one weight) with their index.

    Wider number formats must come first, so that every value lies at a multiple of its size.
    """
    shards = _split(weights, max_shard_bytes)
    names = [f"model-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    total = sum(weight.nbytes for weight in weights)
    tensors = read_tensors([weight.stored for weight in weights if weight.stored])
    with tqdm(total=total, unit="B", unit_scale=True, desc="writing weights", disable=None) as progress:
        for name, shard in zip(names, shards, strict=True):
            _write_shard(folder / name, shard, tensors, progress)
    if len(shards) > 1:
        weight_map = {
            weight.name: name for name, shard in zip(names, shards, strict=True) for weight in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _split(weights: Sequence[TargetWeight], max_bytes: int) -> list[list[TargetWeight]]:
    shards: list[list[TargetWeight]] = [[]]
    used = 0
    for weight in weights:
        if shards[-1] and used + weight.nbytes > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(weight)
        used += weight.nbytes
    return shards


def _write_shard(path: Path, weights: list[TargetWeight], tensors: Iterator[Tensor], progress: tqdm) -> None:
    with path.open("xb") as file:
        file.write(_header(weights))
        for weight in weights:
            # No local name for the tensor: it would keep a mapped file alive while the next one is opened.
            _write_weight(file, weight, next(tensors) if weight.stored else None, progress)


def _write_weight(file: BinaryIO, weight: TargetWeight, tensor: Tensor | None, progress: tqdm) -> None:
    written = 0
    for piece in weight.pieces(tensor):
        written += file.write(piece.reshape(-1).view(torch.uint8).numpy())
        progress.update(piece.nbytes)
    assert written == weight.nbytes, (weight, written)


def _header(weights: list[TargetWeight]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for weight in weights:
        end = start + weight.nbytes
        entries[weight.name] = {
            "dtype": _FORMAT_NAMES[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _HEADER_MULTIPLE)
    return len(text).to_bytes(8, "little") + text
