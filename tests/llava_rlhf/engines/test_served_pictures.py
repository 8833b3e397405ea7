"""Pictures and prompts as servers are sent them: a server that makes pixels as training does sees the same."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data_utils.image_choices import ImageChoices
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.engines import pictures as served
from llava_rlhf.engines.pictures import ServedPictures
from llava_rlhf.engines.prompts import PromptWriter
from tests.support.tiny_families.qwen import save_tiny_qwen25
from tests.support.vllm_server import TINY_BASE

SIZES = ((97, 53), (40, 130), (32, 32), (300, 180))


@pytest.fixture
def folder(tmp_path):
    numbers = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        pixels = numbers.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def decoded(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("ratio", ["pad", "square"])
def test_a_llavas_picture_has_nothing_left_to_resize(folder, ratio):
    text = load_text_side(TINY_BASE, ImageChoices(ratio), "tiny")
    pictures = ServedPictures(folder, text.pipeline, text.family)
    for index in range(len(SIZES)):
        name = f"{index}.png"
        sent = decoded(pictures.url(name, ()))
        assert sent.size == (text.pipeline.size[1], text.pipeline.size[0])
        seen = text.pipeline.processor(images=[sent], return_tensors="pt")["pixel_values"]
        assert torch.equal(seen.float(), text.pipeline(folder, [name]).pixels)


def test_a_qwens_picture_has_the_size_of_training(folder, tmp_path):
    base = save_tiny_qwen25(tmp_path / "qwen")
    text = load_text_side(base, ImageChoices(), "chat")
    pictures = ServedPictures(folder, text.pipeline, text.family)
    for index in range(len(SIZES)):
        made = text.pipeline(folder, [f"{index}.png"])
        sent = decoded(pictures.url(f"{index}.png", made.grids[0]))
        seen = text.pipeline.processor(images=[sent], return_tensors="pt")
        assert torch.equal(seen["pixel_values"].float(), made.pixels)
        assert text.family.grids(seen) == made.grids


def test_few_pictures_are_kept(folder, monkeypatch):
    monkeypatch.setattr(served, "KEPT", 2)
    text = load_text_side(TINY_BASE, ImageChoices(), "tiny")
    pictures, opened = ServedPictures(folder, text.pipeline, text.family), []
    monkeypatch.setattr(
        text.pipeline,
        "opened",
        lambda where, name, own=text.pipeline.opened: (opened.append(name), own(where, name))[1],
    )
    for name in ("0.png", "1.png", "0.png", "2.png", "0.png", "1.png"):
        pictures.url(name, ())
    assert opened == ["0.png", "1.png", "2.png", "1.png"]


def test_a_prompt_has_one_placeholder_a_picture(folder):
    text = load_text_side(TINY_BASE, ImageChoices(), "tiny")
    writer = PromptWriter(text, ServedPictures(folder, text.pipeline, text.family))
    image, positions = text.image_token_id, text.family.fixed_positions
    item = SimpleNamespace(query_ids=[1, image, image, 9], image_names=("0.png", "1.png"), grids=None)
    prompt = writer.write(item)
    assert prompt.token_ids == [1, image, image, 9] and len(prompt.pictures) == 2
    assert prompt.expanded == [1, *[image] * 2 * positions, 9]


def test_marks_around_a_picture_are_sent(folder, tmp_path):
    family = load_text_side(save_tiny_qwen25(tmp_path / "qwen"), ImageChoices(), "chat").family
    first, *middle, last = family.placeholder((16, 4, 4))
    assert set(middle) == {family.image_token_id} and len(middle) > 1
    assert family.served_placeholder((16, 4, 4)) == [first, family.image_token_id, last]
