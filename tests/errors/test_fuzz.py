"""Random rows, files, caption maps and images: our own error or a right result, never another exception, never silence.

What a row must be is written down a second time in `formats.py`, and compared with what the readers accept.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_utils.images import ImageChecks, check_image
from data_utils.problems import DataError
from data_utils.schema import read_captions, read_dialogues, read_preferences, read_prompts
from tests.errors.conftest import BUILD, good_rows
from tests.errors.formats import are_texts, is_of_the_format, is_text
from tests.support.tiers import tiered

READ = {"policy": read_dialogues, "reward": read_preferences, "ppo": read_prompts}
FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}

TEXTS = st.sampled_from(
    [
        "",
        " ",
        "what?",
        "<image>",
        "<image>\nwhat?",
        "<image><image>",
        "</s><unk>",
        "\ud800",
        "\0",
        "a.png",
        "../a",
        "é猫",
    ]
)
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 7, 8, -1, 1.0, 2.5, True, False, float("nan"), float("inf"), 1e31, 10**40]
)
LEAVES = st.one_of(st.none(), NUMBERS, TEXTS, st.text(max_size=5))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system"]), "value": TEXTS})
FIELDS = {
    "conversations": st.lists(MESSAGES, max_size=4),
    "image": st.sampled_from(["000000000000.jpg", "absent.jpg", "../x", ["000000000000.jpg"] * 2, [], None]),
    "output_1": MESSAGES,
    "output_2": MESSAGES,
    "preference": NUMBERS,
    "caption_type": NUMBERS,
    "length_bonus": NUMBERS,
    "captions": st.lists(TEXTS, max_size=2),
    "id": TEXTS | NUMBERS,
    "question": TEXTS,
    "answer": TEXTS,
}


@st.composite
def rows(draw, kind: str) -> Any:
    """A good row with some fields replaced by probable or by any values, removed or added; or any value at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(VALUES)
    row = copy.deepcopy(draw(st.sampled_from(good_rows(kind))))
    for name in draw(st.lists(st.sampled_from(list(FIELDS)), min_size=1, max_size=2)):
        how = draw(st.integers(0, 3))
        if how == 0:
            row.pop(name, None)
        else:
            row[name] = draw(VALUES if how == 1 else FIELDS[name])
    return row


# --- rows


@pytest.mark.parametrize("kind", tiered(READ, quick=["ppo"]))
def test_rows_are_accepted_exactly_when_the_format_allows_them(kind, tmp_path):
    path = tmp_path / "rows.json"
    seen = {True: 0, False: 0}

    @settings(max_examples=250, **FUZZ)
    @given(st.lists(rows(kind), min_size=3, max_size=8), st.booleans())
    def check(values, lines):
        write_rows(path, values, lines)
        records, problems = READ[kind](path)
        right = [index for index, value in enumerate(values) if is_of_the_format(kind, value)]
        assert [record.row for record in records] == right
        assert [problem.row for problem in problems] == [i for i in range(len(values)) if i not in right]
        seen[True] += len(right)
        seen[False] += len(values) - len(right)

    check()
    assert min(seen.values()) > 100, seen  # both happened often


def write_rows(path: Path, values: list, lines: bool) -> None:
    if lines and all(isinstance(value, dict) for value in values):
        path.write_text("\n".join(json.dumps(value) for value in values))
    else:
        path.write_text(json.dumps(values))


@pytest.mark.parametrize("kind", BUILD)
def test_data_sets_are_built_or_refused_and_every_row_is_counted(kind, world, tmp_path):
    path = tmp_path / "rows.json"
    built = {True: 0, False: 0}

    @settings(max_examples=60, **FUZZ)
    @given(st.lists(rows(kind), min_size=1, max_size=4), st.booleans())
    def check(values, skip_invalid):
        path.write_text(json.dumps([*good_rows(kind)[:1], *values]))
        try:
            dataset = world.build(kind, path, skip_invalid=skip_invalid)
        except DataError as error:
            built[False] += 1
            assert all(problem.file == str(path) for problem in error.problems)
            assert not skip_invalid
            return
        built[True] += 1
        report = dataset.report
        assert report.rows_read == len(values) + 1 == report.rows_kept + sum(report.dropped.values())
        assert len(dataset) == report.rows_kept and torch.isfinite(dataset[len(dataset) - 1].images).all()

    check()
    assert min(built.values()) > 10, built


# --- files


GOOD_FILE = json.dumps(good_rows("ppo")).encode()
GOOD_LINES = "\n".join(map(json.dumps, good_rows("ppo"))).encode()


@st.composite
def damaged(draw, *whole_files: bytes) -> bytes:
    """A file with some bytes replaced, removed or put in; or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=50))
    content = bytearray(draw(st.sampled_from(whole_files)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.sampled_from([0, 1, 5, 10**6]))] = draw(st.binary(max_size=3))
    return bytes(content)


@pytest.mark.parametrize("read", [*READ.values(), read_captions])
def test_any_bytes_are_read_or_become_problems(read, tmp_path):
    path = tmp_path / "rows.json"

    @settings(max_examples=150, **FUZZ)
    @given(
        damaged(GOOD_FILE, GOOD_LINES, gzip.compress(GOOD_FILE, mtime=0), GOOD_FILE.decode().encode("utf-16"))
    )
    def check(content):
        path.write_bytes(content)
        found, problems = read(path)
        assert found or problems or content.strip(b"\xef\xbb\xbf \t\r\n") in (b"[]", b"{}")

    check()


@settings(max_examples=200, **FUZZ)
@given(
    value=st.dictionaries(TEXTS | st.text(max_size=3), VALUES | st.lists(TEXTS, max_size=3), max_size=4)
    | VALUES
)
def test_captions_are_accepted_exactly_when_they_are_texts_or_lists_of_them(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed captions.json"
    path.write_text(json.dumps(value))
    captions, problems = read_captions(path)
    entries = value if isinstance(value, dict) else {}
    lists = {name: [v] if isinstance(v, str) else v for name, v in entries.items()}
    assert captions == {name: tuple(v) for name, v in lists.items() if is_text(name) and are_texts(v)}
    assert len(problems) == (len(entries) - len(captions) if isinstance(value, dict) else 1)


# --- images


def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


IMAGES = tuple(map(encoded, ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")))


def test_any_bytes_are_an_image_or_refused(world):
    seen = {True: 0, False: 0}

    @settings(max_examples=400, **FUZZ)
    @given(damaged(*IMAGES))
    def check(content):
        (world.images / "fuzzed").write_bytes(content)
        quick = check_image(world.images, "fuzzed")
        slow = check_image(world.images, "fuzzed", ImageChecks(decode_all=True))
        assert slow or not quick  # who looks closer sees no less
        try:
            pixels = world.pipeline(world.images, ["fuzzed"]).pixels
        except ValueError as error:
            assert slow and "fuzzed" in str(error)
        else:
            assert pixels.shape == (1, 3, 28, 28) and torch.isfinite(pixels).all()
        seen[slow is None] += 1

    check()
    assert min(seen.values()) > 20, seen


@settings(max_examples=200, **FUZZ)
@given(
    name=st.text(max_size=8)
    | st.lists(st.sampled_from(["..", ".", "/", "a", "\0", "~", "C:"]), max_size=5).map("".join)
)
def test_no_name_leads_out_of_the_folder(name, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "fuzzed images"
    folder.mkdir(exist_ok=True)
    (folder.parent / "a").write_bytes(IMAGES[0])
    (folder / "a").write_bytes(IMAGES[1])
    if check_image(folder, name) is None:
        assert (folder / name).resolve() == folder.resolve() / "a"
