"""Data files from the Hub: the one that is named, or the only one there is; rows in Parquet become JSON Lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_rlhf.hub.downloads import download, list_files
from llava_rlhf.hub.places import DATASET, HubPlace

_JSON = re.compile(r"\.jsonl?(\.gz)?$")
_PARQUET = ".parquet"
_ABOUT = ("dataset_infos.json", "dataset_info.json", "state.json")  # of the data set, not its rows
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.parquet$")
CONVERTED = "llava_rlhf"  # folder in HF_HOME for what was made of downloaded files


def fetch_data(what: str, place: HubPlace) -> str:
    """The file of rows in the cache, downloaded where it is not there yet.

    Args:
        what: flag and value, for messages.
        place: a data set's repository, or a file in it.

    Raises:
        ValueError: it can't be had; no file is named and there is none, or more than one; rows that JSON can't hold.
    """
    snapshot, names = _downloaded(what, place)
    if names[0].endswith(_PARQUET):
        return _as_json_lines(what, place, snapshot, names)
    return str(snapshot / names[0])


def fetch_tables(what: str, place: HubPlace) -> list[str]:
    """The file of rows as it is, or every shard of the table, in the cache. Raises ValueError as `fetch_data` does."""
    snapshot, names = _downloaded(what, place)
    return [str(snapshot / name) for name in names]


def _downloaded(what: str, place: HubPlace) -> tuple[Path, list[str]]:
    """(folder in the cache, names of the files in it)."""
    names = [place.inside] if place.inside else _only_file(what, place)
    snapshot = download(what, place, DATASET, names)
    missing = [name for name in names if not (snapshot / name).is_file()]
    if missing:
        there = _data_files(list_files(what, place, DATASET))
        listed = f"its data files: {', '.join(there[:20])}" if there else "it has no data files"
        raise ValueError(f"{what}: the data set {place.repo} has no file {missing[0]}; {listed}")
    return snapshot, names


def _only_file(what: str, place: HubPlace) -> list[str]:
    """The only data file, or all shards of the only table. Raises ValueError where there are several, or none."""
    files = _data_files(list_files(what, place, DATASET))
    tables: dict[str, list[str]] = {}
    for name in files:
        tables.setdefault(_SHARD.sub(_PARQUET, name), []).append(name)
    if len(tables) == 1:
        return next(iter(tables.values()))
    if not tables:
        raise ValueError(
            f"{what}: the data set {place.repo} has no JSON, JSON Lines or Parquet file; name another data set"
        )
    choices = "".join(f"\n  {place}/{names[0]}" for names in list(tables.values())[:20])
    raise ValueError(f"{what}: the data set {place.repo} has {len(tables)} data files; write which:{choices}")


def _data_files(files: list[str]) -> list[str]:
    found = [name for name in files if _JSON.search(name) or name.endswith(_PARQUET)]
    return sorted(name for name in found if not name.startswith(".") and Path(name).name not in _ABOUT)


def _as_json_lines(what: str, place: HubPlace, snapshot: Path, names: list[str]) -> str:
    """Write the rows of Parquet files as JSON Lines, once a commit; returns that file. Raises ValueError."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HOME) / CONVERTED / snapshot.parents[1].name / "snapshots" / snapshot.name
    target = folder / f"{_SHARD.sub('', names[0]).removesuffix(_PARQUET)}.jsonl"
    if target.is_file():
        return str(target)
    rows = [row for name in names for row in _rows(f"{what}: {place.repo}/{name}", snapshot / name)]
    target.parent.mkdir(parents=True, exist_ok=True)
    # Processes may write it at once: each its own, and the last one stays.
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    lines = (json.dumps(_without_nulls(row), ensure_ascii=False) + "\n" for row in rows)
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(target)
    return str(target)


def _rows(what: str, path: Path) -> list[dict[str, Any]]:
    """The rows of one Parquet file. Raises ValueError for one that can't be read, or holds pictures."""
    from datasets import Dataset

    try:
        table = Dataset.from_parquet(str(path), keep_in_memory=True)
    except Exception as error:  # of several packages
        raise ValueError(
            f"{what} is no Parquet file that can be read ({error}); download it again"
        ) from error
    pictures = [name for name, kind in table.features.items() if _holds_bytes(kind)]
    if pictures:
        raise ValueError(
            f"{what} holds pictures or other bytes in {', '.join(pictures)}, which rows of JSON can't: save the pictures as "
            "files to a folder (--image_folder), and the rows, with file names in `image`, as JSON Lines"
        )
    return table.to_list()


def _without_nulls(value: Any) -> Any:
    """A table has every field in every row, null where the row has none."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _holds_bytes(kind: Any) -> bool:
    from datasets import Image

    return isinstance(kind, Image) or "binary" in str(getattr(kind, "dtype", "")) or "'binary'" in repr(kind)
