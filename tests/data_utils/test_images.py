"""Pixels against the recordings and by hand; names and files that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from data_utils.images import ImagePipeline, _open_image, check_image, image_size


@pytest.mark.parametrize("mode", ["pad", "square"])
@pytest.mark.parametrize(("role", "pixels"), [("policy56", 56), ("reward70", 70)])
def test_golden_pixels(recordings, mode, role, pixels):
    processor = CLIPImageProcessorPil.from_pretrained(
        recordings / "base" / "openai" / "clip-vit-tiny-patch14-56",
        size={"shortest_edge": pixels},
        crop_size={"height": pixels, "width": pixels},
    )
    pipeline = ImagePipeline(processor, mode)
    recorded = np.load(recordings / "pixels" / "golden_pixels.npz")
    names = [f"{number:012d}" for number in range(1, 13)]
    made = pipeline(recordings / "images", [f"{name}.jpg" for name in names]).pixels
    expected = torch.from_numpy(np.stack([recorded[f"{mode}_{role}_{name}"] for name in names]))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


def test_padding_is_the_mean_colour_around_the_centred_image(tmp_path, processor):
    # 8 × 4 white becomes 8 × 8: two rows of mean colour, four white, two of mean colour; nothing is resized.
    Image.new("RGB", (8, 4), (255, 255, 255)).save(tmp_path / "wide.png")
    pixels = ImagePipeline(processor, "pad")(tmp_path, ["wide.png"]).pixels[0]
    assert pixels.shape == (3, 8, 8) and pixels.dtype == torch.float32
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    white = (1 - mean) / std
    around = ((mean * 255).int() / 255 - mean) / std
    torch.testing.assert_close(pixels[:, 2:6], white.view(3, 1, 1).expand(3, 4, 8))
    torch.testing.assert_close(pixels[:, :2], around.view(3, 1, 1).expand(3, 2, 8), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pixels[:, 6:], around.view(3, 1, 1).expand(3, 2, 8), rtol=1e-5, atol=1e-5)


def test_no_images_give_an_empty_tensor(tmp_path, pipeline):
    assert pipeline(tmp_path, []).pixels.shape == (0, 3, 8, 8)


def test_images_come_in_the_order_asked_for(folder, pipeline):
    pixels = pipeline(folder, ["c.png", "a.png"]).pixels
    assert pixels[0].mean((1, 2)).argmax() == 2
    assert pixels[1].mean((1, 2)).argmax() == 0


def test_a_good_image_has_no_reason(folder):
    assert check_image(folder, "a.png") is None


@pytest.mark.parametrize("name", ["../a.png", "sub/../../a.png", "/etc/hostname"])
def test_names_that_leave_the_folder_are_refused(folder, pipeline, name):
    (folder / "inner").mkdir()
    assert "relative" in check_image(folder / "inner", name)
    with pytest.raises(ValueError, match="relative"):
        pipeline(folder / "inner", [name])


def test_missing_and_broken_files_have_reasons(folder):
    (folder / "broken.png").write_bytes(b"no image at all")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:40])
    assert "no such file" in check_image(folder, "none.png")
    assert "no such file" in check_image(folder, ".")
    assert "unreadable" in check_image(folder, "broken.png")
    assert "unreadable" in check_image(folder, "cut.png")


def test_a_truncated_photograph_names_its_file(tmp_path, pipeline):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"photo\.jpg"):
        pipeline(tmp_path, ["photo.jpg"])


def test_an_unknown_mode_is_refused(processor):
    with pytest.raises(ValueError, match="stretch"):
        ImagePipeline(processor, "stretch")


def test_a_jpeg_that_stops_half_way_is_refused(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    noise.save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 3])
    (tmp_path / "trailing.jpg").write_bytes(content + b"\0" * 5000)  # decodes: bytes after the end do no harm
    assert check_image(tmp_path, "whole.jpg") is None
    assert check_image(tmp_path, "trailing.jpg") is None
    assert "truncated" in check_image(tmp_path, "cut.jpg")


@pytest.mark.parametrize("orientation", [None, 1, 3, 5, 6, 8])
def test_the_size_in_the_header_is_that_of_the_upright_image(tmp_path, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path, "turned.jpg") == _open_image(tmp_path, "turned.jpg").size
