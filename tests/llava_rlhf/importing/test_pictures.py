"""Pictures of rows: files, bytes, base64, data URLs, archives; where they go, and what is no picture."""

from __future__ import annotations

import base64
import hashlib
import tarfile
import zipfile

import pytest

from data_utils.row_fields import BadField
from llava_rlhf.importing.outcomes import Picture
from llava_rlhf.importing.pictures import REFERENCED, WRITTEN, Pictures
from tests.llava_rlhf.importing.cases import png, write_pictures

CONTENT = png(4)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"{DIGEST[:2]}/{DIGEST[:32]}.png"
BASE64 = base64.b64encode(CONTENT).decode()
# One picture, as rows have it.
HELD = {
    "bytes": CONTENT,
    "object with bytes": {"bytes": CONTENT, "path": "x.jpg"},
    "object with base64": {"bytes": BASE64, "path": None},
    "base64": BASE64,
    "data url": f"data:image/png;base64,{BASE64}",
    "data url with a charset": f"data:image/png;charset=utf-8;base64,{BASE64}",
}


@pytest.mark.parametrize("name", HELD)
def test_a_picture_in_the_row_is_written_under_its_content(name, tmp_path):
    pictures = Pictures(None, tmp_path / "images")
    for _ in range(2):
        assert pictures.name(Picture("image", HELD[name])) == NAME
    assert (tmp_path / "images" / NAME).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "images").rglob("*.*")] == [
        NAME[3:]
    ] and pictures.kind == WRITTEN


def test_a_picture_that_was_cut_off_is_written_again(tmp_path):
    path = tmp_path / "images" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:10])
    assert Pictures(None, tmp_path / "images").name(Picture("image", CONTENT)) == NAME
    assert path.read_bytes() == CONTENT


@pytest.fixture
def source(tmp_path):
    return write_pictures(tmp_path / "pictures")


def test_a_file_stays_where_it_is(source, tmp_path):
    pictures = Pictures(str(source), tmp_path / "images")
    for value in ("a.png", "./a.png", str(source / "a.png"), {"path": "a.png", "bytes": None}):
        assert pictures.name(Picture("image", value)) == "a.png"
    assert pictures.kind == REFERENCED and not (tmp_path / "images").exists()


def test_a_file_is_copied_where_that_is_asked_for(source, tmp_path):
    pictures = Pictures(str(source), tmp_path / "images", copy=True)
    assert pictures.name(Picture("image", "a.png")) == NAME == pictures.name(Picture("image", CONTENT))


def test_two_kinds_in_two_folders_are_refused(source, tmp_path):
    pictures = Pictures(str(source), tmp_path / "images")
    pictures.name(Picture("image", "a.png"))
    with pytest.raises(BadField) as error:
        pictures.name(Picture("image", CONTENT))
    assert "--copy_images True" in error.value.remedy
    with pytest.raises(BadField, match="copy_images"):  # and where an import goes on
        Pictures(None, tmp_path / "images", kind=REFERENCED).name(Picture("image", CONTENT))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_read_by_name(kind, source, tmp_path):
    archive = tmp_path / f"pictures.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.write(source / "a.png", "sub/a.png")
    else:
        with tarfile.open(archive, "w") as file:
            file.add(source / "b.png", "./other/b.png")
            file.add(source / "a.png", "./sub/a.png")
    pictures = Pictures(str(archive), tmp_path / "images")
    assert pictures.name(Picture("image", "sub/a.png")) == NAME
    assert pictures.name(Picture("image_id", 1, names=("none.png", "sub/a.png"))) == NAME
    for name in ("a.png", "../sub/a.png"):
        with pytest.raises(BadField) as error:
            pictures.name(Picture("image", name))
        assert "no such file in the archive" in error.value.remedy


def test_a_compressed_tar_is_refused(source, tmp_path):
    archive = tmp_path / "pictures.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source / "a.png", "a.png")
    with pytest.raises(ValueError, match=r"is no archive that can be read .*gunzip it first"):
        Pictures(str(archive), tmp_path / "images")


WRONG = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is no picture", "is no picture of a known format"),
    "pdf": (b"%PDF-1.4", "is a PDF document"),
    "cut off": (CONTENT[:40], "unreadable image"),
    "broken base64": ("data:image/png;base64,a", "base64 that can't be decoded"),
    "address": ("https://example.org/a.png", "nothing is fetched here"),
    "number": (3, "must be a file name"),
    "empty object": ({"width": 3}, "must have bytes or a path"),
    "blank": (" ", "must be a file name"),
    "no such file": ("c.png", "no such file in the image folder"),
    "way out": ("../x.png", "must be a path relative"),
    "absolute": ("/etc/hostname", "must be a path relative"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_picture_is_refused(name, source, tmp_path):
    value, words = WRONG[name]
    with pytest.raises(BadField) as error:
        Pictures(str(source), tmp_path / "images").name(Picture("image", value))
    assert words in error.value.remedy
    assert not list((tmp_path / "images").rglob("*.*"))


def test_a_file_name_needs_a_folder(tmp_path):
    for picture in (Picture("image", "a.png"), Picture("image_id", 9, names=("a.png",))):
        with pytest.raises(BadField) as error:
            Pictures(None, tmp_path / "images").name(picture)
        assert "--image_folder" in error.value.remedy
