"""What a file is, by its first bytes: data that comes in another dress is named, with what to do about it."""

from __future__ import annotations

import re

SEEN = 4096  # bytes that are looked at
_AGAIN = "fetch the file itself"
_UNPACK = "unpack it, and name the file inside"
PICTURE = "name the file of rows; pictures lie in --image_folder"
_SAVE = "save its rows as JSON Lines"
_PANDAS = "save its rows as JSON Lines: pandas.read_{}(FILE).to_json(NEW, orient='records', lines=True)"

# First bytes → what such a file is, and what to do.
_FIRST_BYTES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
    (b"PAR1", "a Parquet file", _PANDAS.format("parquet")),
    (b"ARROW1", "an Arrow file", _PANDAS.format("feather")),
    (b"FEA1", "a Feather file", _PANDAS.format("feather")),
    (b"\xff\xff\xff\xff", "an Arrow stream", "save its rows: datasets.Dataset.from_file(FILE).to_json(NEW)"),
    (b"Obj\x01", "an Avro file", _SAVE),
    (b"SQLite format 3\x00", "an SQLite database", _SAVE),
    (b"\x89HDF\r\n", "an HDF5 file", _SAVE),
    (b"\x93NUMPY", "a NumPy array", _SAVE),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as text in UTF-8"),
    (b"BZh", "a bzip2 archive", "unpack it: bunzip2 FILE"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it: unzstd FILE"),
    (b"\x04\x22\x4d\x18", "an LZ4 archive", "unpack it: unlz4 FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"%PDF", "a PDF document", "name the file of rows"),
    (b"%!PS", "a PostScript document", "name the file of rows"),
    (b"\x89PNG\r\n", "a PNG picture", PICTURE),
    (b"\xff\xd8\xff", "a JPEG picture", PICTURE),
    (b"GIF87a", "a GIF picture", PICTURE),
    (b"GIF89a", "a GIF picture", PICTURE),
    (b"II*\x00", "a TIFF picture", PICTURE),
    (b"MM\x00*", "a TIFF picture", PICTURE),
    (b"\xff\x0a", "a JPEG XL picture", PICTURE),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture", PICTURE),
    (b"GGUF", "a GGUF model", "name the file of rows"),
)
_BRANDS = {b"avif": "an AVIF picture", b"avis": "an AVIF picture"}
_BRANDS |= dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis"), "a HEIC picture")
_PICKLE = re.compile(rb"\x80[\x02-\x05].")
_MARKUP = re.compile(
    rb"\s*(?:<!--.*?-->\s*)?<(!doctype\s+html|html|head|body|\?xml|svg)\b", re.IGNORECASE | re.DOTALL
)


def foreign_file(head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) of a file that begins with these bytes and holds no text of ours; None for any other."""
    for first, what, remedy in _FIRST_BYTES:
        if head.startswith(first):
            return what, remedy
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(head)
    if head[4:8] == b"ftyp":
        what = _BRANDS.get(head[8:12], "a video")
        return what, PICTURE
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "a WebP picture", PICTURE
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if _PICKLE.match(head):
        return "a Python pickle, which could run any code", f"{_SAVE}, where you trust who wrote it"
    if head[8:10] == b'{"' and head[6:8] == b"\x00\x00":
        return "a safetensors file", "name the file of rows"
    return _markup(head)


def _zip(head: bytes) -> tuple[str, str]:
    if b"[Content_Types].xml" in head or b"xl/" in head:
        return "an Excel or Word file", "save it as text in UTF-8"
    if b".npy" in head:
        return "an archive of NumPy arrays (.npz)", _SAVE
    if b"data.pkl" in head:
        return "a PyTorch checkpoint", "name the file of rows"
    return "a zip archive", _UNPACK


def _markup(head: bytes) -> tuple[str, str] | None:
    found = _MARKUP.match(head.removeprefix(b"\xef\xbb\xbf"))
    if found is None:
        return None
    name = found[1].lower()
    if name == b"svg" or (name == b"?xml" and b"<svg" in head):
        return "an SVG picture", PICTURE
    if name == b"?xml" and b"<html" not in head.lower():
        return "an XML document", _AGAIN
    return "a web page", f"{_AGAIN}, not the page that shows it (a sign-in or error page is one, too)"
