"""Data files as a whole: what can't be read is refused with a reason, what can be read is read whatever its dress."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import pytest

from data_utils.json_files import MAX_UNPACKED, read_placed_rows, read_rows, read_text
from data_utils.problems import DataError
from tests.errors.conftest import good_rows
from tests.errors.documented import documented

ROWS = good_rows("ppo")
PLAIN = json.dumps(ROWS).encode()
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
NESTED = b"[" * 100_000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def archive(kind: str, name: str) -> bytes:
    """A zip or tar archive that holds the rows under a name."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr(name, PLAIN)
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(PLAIN)
            tar.addfile(member, io.BytesIO(PLAIN))
    return file.getvalue()


CASES = {
    "empty": b" \n",
    "no-rows": b"[]",
    "cut-off": PLAIN[:-40],
    "cut-off-line": LINES + b'{"id": "p',
    "object": b'{\n "rows": []\n}',
    "number": b"3",
    "nested": b"[" + NESTED,
    "nested-line": LINES + b'{"id": ' + NESTED + b"\n",
    "utf-16": PLAIN.decode().encode("utf-16"),
    "latin-1": '[{"id": "é"}]'.encode("latin-1"),
    "gzip-cut-off": gzip.compress(PLAIN)[:-20],
    "gzip-damaged": gzip.compress(PLAIN)[:30] + b"\x00\xff" * 20 + gzip.compress(PLAIN)[70:],
    "gzip-bomb": gzip.compress(bytes(10**6)),
    "directory": None,
    "parquet": b"PAR1\x15\x04\x15\xa0PAR1",
    "arrow": b"ARROW1\x00\x00\xff\xff\xff\xff",
    "zip": archive("zip", "rows.json"),
    "excel": archive("zip", "[Content_Types].xml"),
    "tar": archive("tar", "rows.json"),
    "tar-gzip": gzip.compress(archive("tar", "rows.json")),
    "xz": lzma.compress(PLAIN),
    "bzip2": bz2.compress(PLAIN),
    "pickle": pickle.dumps(ROWS),
    "sqlite": b"SQLite format 3\x00\x10\x00",
    "numpy": b"\x93NUMPY\x01\x00",
    "pdf": b"%PDF-1.7\n%\xe2\xe3",
    "picture": b"\x89PNG\r\n\x1a\n\x00\x00",
    "pointer": POINTER,
    "pointer-gzip": gzip.compress(POINTER),
    "web-page": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "not-found": b"Entry not found",
    "table": b"image,question\na.png,what?\n",
    "python": repr(ROWS).encode(),
    "wrapped": b'{\n "data": ' + PLAIN + b"\n}",
    "wrapped-line": b'{"version": 1, "data": ' + PLAIN + b"}",
    "by-id": json.dumps({row["id"]: row for row in ROWS}).encode(),
    "by-column": json.dumps({"id": ["a", "b"], "question": ["what?", "who?"]}).encode(),
    "coco": json.dumps({"info": {}, "images": [{"id": 1}], "annotations": [{"image_id": 1}]}).encode(),
    "json-lines": LINES.replace(b"\n", b"\r\n\n"),
    "gzip": gzip.compress(PLAIN),
    "gzip-lines": gzip.compress(LINES),
    "byte-order-mark": b"\xef\xbb\xbf" + PLAIN,
}


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    row, path = documented(__file__, case), tmp_path / "rows.json"
    if CASES[case] is None:
        path.mkdir()
    else:
        path.write_bytes(CASES[case])
    if row.accepted:
        assert world.build("ppo", path).column("id") == ["row 0", "row 1", "row 4"]
        return
    if case == "gzip-bomb":
        with pytest.raises(ValueError, match=row.pattern.replace(str(MAX_UNPACKED), "1000")):
            read_text(path, max_unpacked=1000)
        return
    with pytest.raises(DataError, match=row.pattern):
        world.build("ppo", path)
    if row.skipped == "drops it":
        dataset = world.build("ppo", path, skip_invalid=True)
        assert len(dataset) == 3 and dataset.report.dropped == {"invalid record": 1}
    else:
        with pytest.raises(DataError, match=row.pattern):
            world.build("ppo", path, skip_invalid=True)


def test_a_single_row_on_a_line_is_a_file_of_one_row(tmp_path):
    for row in (
        *ROWS,
        {"messages": [{"role": "user"}], "images": ["a.png"]},
        {"image": "a", "objects": [{}]},
    ):
        (tmp_path / "row").write_text(json.dumps(row))
        assert read_rows(tmp_path / "row") == [row]


def test_rows_have_places(tmp_path):
    (tmp_path / "rows").write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert read_placed_rows(tmp_path / "rows") == [("line 2", {"a": 1}), ("line 4", {"a": 2})]
    (tmp_path / "rows").write_text('[\n{"a": 1},\n3]')
    assert read_placed_rows(tmp_path / "rows") == [("row 0", {"a": 1}), ("row 1", 3)]


def test_an_unpacked_file_may_be_as_large_as_the_limit(tmp_path):
    (tmp_path / "text").write_bytes(gzip.compress(b"x" * 1000))
    assert read_text(tmp_path / "text", max_unpacked=1000) == "x" * 1000
