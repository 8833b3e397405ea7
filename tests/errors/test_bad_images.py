"""Image files and names: what can't be used is refused before a model is loaded, what is only unusual is read right."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_utils.images import ImageChecks, check_image
from data_utils.problems import DataError
from tests.errors.conftest import good_rows
from tests.errors.documented import documented

RED, GREEN = (220, 20, 20), (20, 180, 60)


def noise(size=(64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cut(name: str) -> Callable[[Path], str]:
    """The first half of a file in the format of its name."""

    def write(folder: Path) -> str:
        noise().save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        return name

    return write


def holding(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return write


def named(name: str) -> Callable[[Path], str]:
    return lambda folder: name


def png(width: int, height: int, *data: bytes) -> bytes:
    """A PNG with right check sums, whatever the data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(b"IDAT", d) for d in data) + chunk(b"IEND", b"")


def saved(name: str, image: Image.Image) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        image.save(folder / name)
        return name

    return write


def link_to_a_file(folder: Path) -> str:
    noise().save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    return "link.png"


def linked_folder(folder: Path) -> str:
    (folder.parent / "elsewhere").mkdir()
    noise().save(folder.parent / "elsewhere" / "a.png")
    (folder / "coco").symlink_to(folder.parent / "elsewhere")
    return "coco/a.png"


def link_to_nothing(folder: Path) -> str:
    (folder / "link.png").symlink_to(folder / "gone.png")
    return "link.png"


BAD = {
    "missing": named("absent.jpg"),
    "zero-bytes": holding("a.jpg", b""),
    "text": holding("a.jpg", b"<html>404 Not Found</html>"),
    "cut-off-png": cut("a.png"),
    "cut-off-jpeg": cut("a.jpg"),
    "cut-off-webp": cut("a.webp"),
    "cut-off-gif": cut("a.gif"),
    "cut-off-bmp": cut("a.bmp"),
    "cut-off-tiff": cut("a.tiff"),
    "huge": saved("a.png", Image.new("1", (10_001, 101))),
    "stretched": saved("a.png", Image.new("1", (1010, 10))),
    "bomb": holding("a.png", png(60_000, 60_000, zlib.compress(b"\0"))),
    "text-bomb": holding(
        "a.png",
        png(1, 1).replace(b"\0\0\0\0IEND", struct.pack(">I", 60) + b"IEND") + zlib.compress(bytes(10**6)),
    ),
    "float-pixels": saved("a.tiff", Image.new("F", (20, 20))),
    "postscript": holding("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
    "parent-folder": named("../../etc/passwd"),
    "absolute": named("/etc/passwd"),
    "zero-character": named("a\0.png"),
    "long-name": named("a" * 300),
    "directory": named("."),
    "link-to-a-file": link_to_a_file,
    "link-to-a-folder": linked_folder,
    "link-to-nothing": link_to_nothing,
    "damaged-inside": holding("a.png", png(8, 8, b"no compressed data")),
}


def quarters() -> Image.Image:
    """40 × 20: the left half red, the right half green."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(GREEN, (20, 0, 40, 20))
    return image


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def save_rotated(folder: Path) -> str:
    # 6: the camera was held upright, the picture must be turned clockwise by a quarter to be seen as it was.
    turned = quarters().transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "odd.png", exif=with_orientation(6))
    return "odd.png"


def save_animation(folder: Path) -> str:
    other = Image.new("RGB", (40, 20), (0, 0, 255))
    quarters().save(folder / "odd.webp", save_all=True, append_images=[other], lossless=True)
    return "odd.webp"


def save_damaged_exif(folder: Path) -> str:
    quarters().save(folder / "odd.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    return "odd.png"


def save_16_bits(folder: Path) -> str:
    grey = np.full((20, 40), 0x8012, dtype=np.uint16)
    grey[:, 20:] = 0x1034
    Image.fromarray(grey).save(folder / "odd.png")
    return "odd.png"


def linked_image_folder(folder: Path) -> str:
    quarters().save(folder / "odd.png")
    moved = folder.rename(folder.with_name("moved"))
    folder.symlink_to(moved)
    return "odd.png"


GREYS = ((0x80,) * 3, (0x10,) * 3)
# case → how to save, and the colours of the left and the right half that must be seen
UNUSUAL = {
    "cmyk": (saved("odd.jpg", quarters().convert("CMYK")), (RED, GREEN)),
    "16-bit-grey": (save_16_bits, GREYS),
    "animation": (save_animation, (RED, GREEN)),
    "exif-rotation": (save_rotated, (RED, GREEN)),
    "damaged-exif": (save_damaged_exif, (RED, GREEN)),
    "linked-image-folder": (linked_image_folder, (RED, GREEN)),
}
CASES = {**BAD, **UNUSUAL}


def rows_with(name: str, path: Path) -> Path:
    rows = good_rows("policy")
    rows[1]["image"] = name
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    row = documented(__file__, case)
    assert row.accepted == (case in UNUSUAL)
    if row.accepted:
        see_unusual(case, world)
        return
    name = BAD[case](world.images)
    path = rows_with(name, tmp_path / "rows.json")
    checks = {"image_checks": ImageChecks(decode_all=True)} if case == "damaged-inside" else {}
    with pytest.raises(
        DataError, match=rf"rows\.json, row 1, field 'image': .*{row.pattern.removeprefix('(?s)')}"
    ):
        world.build("policy", path, **checks)
    dataset = world.build("policy", path, skip_invalid=True, **checks)
    assert row.skipped == "drops it"
    assert len(dataset) == 2 and dataset.report.dropped == {"missing or unreadable image": 1}


def see_unusual(case, world):
    save, colours = UNUSUAL[case]
    name = save(world.images)
    assert check_image(world.images, name) is None
    image = world.pipeline.opened(world.images, name)  # 40 × 20 in the middle of a square
    assert image.size == (40, 40)
    for x, colour in zip((10, 30), colours, strict=True):
        assert np.abs(np.array(image.getpixel((x, 20))) - colour).max() <= 12, (x, image.getpixel((x, 20)))


def test_links_are_followed_where_that_is_asked_for(world, tmp_path):
    for name in (link_to_a_file(world.images), linked_folder(world.images)):
        assert check_image(world.images, name, ImageChecks(follow_links=True)) is None
        path = rows_with(name, tmp_path / "rows.json")
        dataset = world.build("policy", path, image_checks=ImageChecks(follow_links=True))
        assert dataset[1].images.shape == (1, 3, 28, 28)


def test_what_the_header_hides_is_an_error_with_file_and_row_when_the_pixels_are_needed(world, tmp_path):
    path = rows_with(BAD["damaged-inside"](world.images), tmp_path / "rows.json")
    dataset = world.build("policy", path)
    assert len(dataset) == 3
    with pytest.raises(
        ValueError, match=r"rows\.json, row 1, field 'image': .*a\.png: cannot be decoded.*--verify_images"
    ):
        dataset[1]


def test_images_at_the_limits_are_read(world):
    for name, size in (("long.png", (10_000, 100)), ("wide.png", (100, 1))):
        Image.new("1", size).save(world.images / name)
        assert check_image(world.images, name, ImageChecks(decode_all=True)) is None


def test_every_exif_orientation_is_undone(world):
    upright = np.asarray(quarters().resize((20, 12)))
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 7: "TRANSVERSE"}
    undo |= {6: "ROTATE_90", 8: "ROTATE_270"}  # stored turned the other way round than it is to be shown
    for number, how in undo.items():
        stored = Image.fromarray(upright).transpose(Image.Transpose[how])
        stored.save(world.images / "turned.png", exif=with_orientation(number))
        seen = np.asarray(world.pipeline.opened(world.images, "turned.png"))[4:16]
        assert np.array_equal(seen, upright), number


def test_pillow_alone_would_make_16_bit_greys_white(world):
    name = save_16_bits(world.images)
    with Image.open(world.images / name) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    shutil.rmtree(world.images)
