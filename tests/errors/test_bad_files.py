"""Data files as a whole: what can't be read is refused with a reason, what can be read is read whatever its dress."""

from __future__ import annotations

import gzip
import json

import pytest

from data_utils.json_files import MAX_UNPACKED, read_text
from data_utils.problems import DataError
from tests.errors.conftest import good_rows
from tests.errors.documented import documented

ROWS = good_rows("ppo")
PLAIN = json.dumps(ROWS).encode()
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
NESTED = b"[" * 100_000

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


def test_an_unpacked_file_may_be_as_large_as_the_limit(tmp_path):
    (tmp_path / "text").write_bytes(gzip.compress(b"x" * 1000))
    assert read_text(tmp_path / "text", max_unpacked=1000) == "x" * 1000
