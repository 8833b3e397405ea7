"""Pictures under a name that differs a little, and files that are no picture of a format that is read: what is there is named."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_utils.near_names import SEARCHED, near_name
from data_utils.problems import DataError
from tests.errors.conftest import good_rows
from tests.errors.documented import documented

NFC, NFD = (unicodedata.normalize(form, "Größe café.png") for form in ("NFC", "NFD"))
FTYP = b"\x00\x00\x00\x20ftyp"
# case → the name in the row, the name of the file, and its content (None: a picture)
CASES = {
    "file-in-nfd": (NFC, NFD, None),
    "file-in-nfc": (NFD, NFC, None),
    "folder-in-nfd": (f"{NFC[:-4]}/a.png", f"{NFD[:-4]}/a.png", None),
    "backslash": ("train\\a.png", "train/a.png", None),
    "backslash-nothing": ("train\\a.png", "b.png", None),
    "capital-ending": ("a.png", "a.PNG", None),
    "capitals": ("img_0001.png", "Img_0001.Png", None),
    "other-ending": ("a.jpg", "a.png", None),
    "no-ending": ("a", "a.png", None),
    "folder-in-front": ("coco/train2017/a.png", "a.png", None),
    "coco-prefix": ("COCO_val2014_000000000009.png", "000000000009.png", None),
    "no-coco-prefix": ("000000000009.png", "COCO_train2014_000000000009.png", None),
    "avif": ("a.avif", "a.avif", FTYP + b"avif\x00\x00"),
    "heic": ("a.jpg", "a.jpg", FTYP + b"heic\x00\x00"),
    "svg": ("a.svg", "a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    "pointer-image": ("a.png", "a.png", b"version https://git-lfs.github.com/spec/v1\n"),
    "page-image": ("a.jpg", "a.jpg", b"<!DOCTYPE html><html></html>"),
    "damaged-start": ("a.gif", "a.gif", b"GIF89a"),
    "unknown-format": ("a.raw", "a.raw", b"\x01\x02\x03"),
}


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    row, (name, there, content) = documented(__file__, case), CASES[case]
    file = world.images / there
    file.parent.mkdir(exist_ok=True)
    if content is None:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    else:
        file.write_bytes(content)
    rows = good_rows("policy")
    rows[1]["image"] = name
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=row.pattern):
        world.build("policy", tmp_path / "rows.json")
    dataset = world.build("policy", tmp_path / "rows.json", skip_invalid=True)
    assert row.skipped == "drops it" and dataset.report.dropped == {"missing or unreadable image": 1}


def test_the_name_that_is_told_is_there(tmp_path):
    (tmp_path / NFD).write_bytes(b"x")
    told = near_name(tmp_path, NFC)
    assert told is not None and ascii(NFD) in told and "(NFD)" in told
    assert near_name(tmp_path, "absent.png") is None
    assert near_name(tmp_path / "no such folder", "a.png") is None


def test_a_large_folder_is_not_read_through_for_each_missing_name(tmp_path, monkeypatch):
    seen = []

    class Entries(list):
        def __enter__(self):
            return iter(self.entry(number) for number in range(10 * SEARCHED))

        def __exit__(self, *_):
            pass

        def entry(self, number):
            seen.append(number)
            return Path(f"{number}.png")

    monkeypatch.setattr("data_utils.near_names.os.scandir", lambda folder: Entries())
    assert near_name(tmp_path, "absent.png") is None
    assert len(seen) == SEARCHED
