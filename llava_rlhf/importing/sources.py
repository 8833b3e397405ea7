"""What `--source` names → files, and the rows of a file one by one: JSON, JSON Lines, Parquet, annotation files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_utils.json_stream import OBJECT, layout, stream_members, stream_rows
from llava_rlhf.hub.places import hub_place
from llava_rlhf.importing.formats import FORMATS, guess

_DATA = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
_PARQUET = b"PAR1"
_BATCH = 64  # rows of a table that are unpacked at once; each may hold a picture
_ANNOTATIONS = "annotations"


def find_files(sources: Sequence[str]) -> list[Path]:
    """The files of rows that files, folders and data sets of the Hub stand for, in order. Raises ValueError."""
    found: list[Path] = []
    for source in sources:
        path, place = Path(source), hub_place(source)
        if place is not None:
            from llava_rlhf.hub.data_files import fetch_tables

            found += map(Path, fetch_tables(f"--source {source}", place))
        elif path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(_DATA))
            if not inside:
                raise ValueError(
                    f"--source {source}: the folder has no file that ends with {', '.join(_DATA)}"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"--source {source}: no such file or folder")
    files = [path.resolve() for path in found]
    if twice := [path for place, path in enumerate(files) if path in files[:place]]:
        raise ValueError(f"--source: {twice[0]} would be read twice; name each file once")
    return found


def guess_format(files: Sequence[Path]) -> str:
    """The format of the first row of all files. Raises ValueError."""
    for path in files:
        try:
            found = next(
                (one for one in _with_places(path, 0, _ANNOTATIONS) if isinstance(one[1], Mapping)), None
            )
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        if found is not None:
            return guess(found[1], f"{path}, row {found[0]}")
    raise ValueError(f"--source {files[0]}: holds no rows")


def is_annotation_file(path: Path) -> bool:
    """Whether a file is one object with lists of annotations or questions."""
    return _begins(path) != _PARQUET and layout(path) == OBJECT


def source_rows(path: Path, format_name: str, start: int = 0) -> Iterator[tuple[int, Any]]:
    """(number from 0, row) of a file, from row `start` on.

    Raises ValueError, without the file's name, where it can't be read on.
    """
    yield from _with_places(path, start, FORMATS[format_name].members)


def _with_places(path: Path, start: int, members: str | None) -> Iterator[tuple[int, Any]]:
    if _begins(path) == _PARQUET:
        yield from _table_rows(path, start)
        return
    if is_annotation_file(path):
        rows: Iterator[Any] = (row for key, row in stream_members(path) if key == members)
    else:
        rows = stream_rows(path)
    yield from enumerate(islice(rows, start, None), start)


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_PARQUET))


def _table_rows(path: Path, start: int) -> Iterator[tuple[int, Any]]:
    """Rows of a Parquet file; a field that is null is left out, as a table has every field in every row."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            number = 0
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if number + rows <= start:
                    number += rows
                    continue
                for batch in table.iter_batches(_BATCH, row_groups=[group]):
                    for row in batch.to_pylist():
                        if number >= start:
                            yield number, without_nulls(row)
                        number += 1
    except (pyarrow.ArrowException, OSError) as error:  # of damaged bytes it says OSError
        raise ValueError(
            f"is no Parquet file that can be read ({error}); copy or download it again"
        ) from None


def without_nulls(value: Any) -> Any:
    """Objects without the keys that are null, at every depth."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
