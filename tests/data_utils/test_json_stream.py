"""Values one at a time are those of the whole file; and what no reader can read on is said."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from data_utils import json_stream
from data_utils.json_files import BadLine, RepeatedKeys, read_rows
from data_utils.json_stream import LINES, LIST, OBJECT, layout, stream_members, stream_rows

ROWS = [{"a": 1, "text": 'é "quoted" [x] {y} \\ \u2028 end'}, {"b": [1, {"c": None}]}, 12.5, "é", [], {}]


@pytest.fixture(params=[1, 7, 1 << 16])
def chunk(request, monkeypatch) -> int:
    """Characters that are read at once: a value may end anywhere in them."""
    monkeypatch.setattr(json_stream, "_CHUNK", request.param)
    return request.param


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_list_is_read_as_the_whole_file_is(ascii_only, indent, pack, chunk, tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(pack(json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only).encode()))
    assert layout(path) == LIST
    assert list(stream_rows(path)) == ROWS == read_rows(path)


def test_lines_are_read_as_the_whole_file_is(chunk, tmp_path):
    path = tmp_path / "rows"
    lines = ['{"a": 1}', "", '{"b": 2, "b": 3}', '{"c": ', '{"d": "\u2028"}']
    path.write_text("\ufeff" + "\n".join(lines), "utf-8", newline="")
    rows = list(stream_rows(path))
    assert layout(path) == LINES
    assert [row for row in rows if not isinstance(row, BadLine)] == [{"a": 1}, {"b": 3}, {"d": "\u2028"}]
    assert isinstance(rows[1], RepeatedKeys) and rows[1].repeated == {"b"}
    assert rows[2].number == 4 and "is no JSON" in rows[2].reason
    whole = read_rows(path)
    assert [row for row in whole if not isinstance(row, BadLine)] == [
        row for row in rows if not isinstance(row, BadLine)
    ]


def test_lists_in_an_object_are_read_item_by_item(chunk, tmp_path):
    path = tmp_path / "coco.json"
    content = {
        "info": {"year": 2014},
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [[1, 2], "x"],
        "empty": [],
        "n": 3,
    }
    path.write_text(json.dumps(content, indent=1))
    assert layout(path) == OBJECT
    assert list(stream_members(path)) == [
        ("info", {"year": 2014}),
        ("images", {"id": 1}),
        ("images", {"id": 2}),
        ("annotations", [1, 2]),
        ("annotations", "x"),
        ("n", 3),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'[{"a": 1}, {"b"', "is no JSON .*at value 1 of a list"),
        (b'[{"a": 1} {"b": 2}]', "expected ',', found '{'.*at value 0 of a list"),
        (b'[{"a": 1}', "expected ',', found the end of the file"),
        (b'[{"a": 1}] x', "something stands behind the list"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a,b\n1,2\n", "it begins like a table"),
        ('[{"a": "é"}]'.encode("latin-1"), "is neither UTF-8 nor gzip"),
        ('[{"a": 1}]'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (gzip.compress(b'[{"a": 1}]' * 100, mtime=0)[:-20], "is a cut-off or damaged gzip file"),
        (b"PAR1xxxx", "is a Parquet file"),
        (b"\x80\x04\x95", "is a Python pickle"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(content, message, tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(stream_rows(path))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="can't be read"):
        list(stream_rows(tmp_path / "none"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    path, row = tmp_path / "rows.json", json.dumps({"text": "x" * 1000})
    peaks = []
    for count in (1000, 8000):
        path.write_text(f"[{','.join([row] * count)}]")
        tracemalloc.start()
        assert sum(1 for _ in stream_rows(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2**21
