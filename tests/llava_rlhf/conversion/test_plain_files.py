"""A converted base and the shipped one, read by plain transformers: pixels in the mode of the original, published names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaForConditionalGeneration,
)

from data_utils.conversation import TEMPLATES
from data_utils.image_choices import ImageChoices
from data_utils.images import ImagePipeline, open_picture
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.conversion import base_model
from llava_rlhf.conversion.base_model import plan_base
from llava_rlhf.conversion.plain_files import plain_image_processor, plain_processor
from llava_rlhf.conversion.plain_inputs import questions_on_all_pictures, write_pictures
from llava_rlhf.conversion.published_names import INDEX, module_name, publish_names, published_name
from models.base_fingerprint import base_fingerprint
from models.base_weights import weight_files
from models.vision_fingerprint import vision_fingerprint
from tests.support.original_models import write_json

SHIPPED = Path(__file__).resolve().parents[3] / "scripts" / "tiny" / "base"
# Taken of the shipped base when its files had today's names.
SHIPPED_FINGERPRINT = "e2a216f4f29301e541146f421e76859096976c72fd2dfebec7b2de330e7821d7"
SHIPPED_VISION = "82dfd0cd05afa71cee60bd2b0ef4f0e7ce9d989da9f2fc82d5d4be54e9220206"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


# --- converted bases


@pytest.mark.parametrize(("told", "mode"), [("pad", "pad"), ("square", "square"), (None, "pad")])
def test_pixels_are_made_as_the_original_says(told, mode, pair, pictures):
    config = json.loads((pair.source / "config.json").read_text())
    write_json(pair.source / "config.json", config | {"image_aspect_ratio": told})
    plan_base(pair.source, pair.tower).write(pair.output)
    written = AutoProcessor.from_pretrained(pair.output).image_processor
    tower = CLIPImageProcessorPil.from_pretrained(pair.tower)
    for picture in pictures:
        pixels = written(images=open_picture(picture), return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, ImagePipeline(tower, mode)(picture.parent, [picture.name]).pixels), (
            picture.name
        )
        for either in ("pad", "square"):  # our programs are told the mode, whatever is written
            text = load_text_side(pair.output, ImageChoices(either), "v1")
            ours = text.pipeline(picture.parent, [picture.name]).pixels
            assert torch.equal(ours, ImagePipeline(tower, either)(picture.parent, [picture.name]).pixels)


def test_a_conversion_that_crops_where_it_should_pad_ends(pair, monkeypatch):
    monkeypatch.setattr(base_model, "plain_processor", lambda *args: plain_processor(*args[:-1], "square"))
    plan = plan_base(pair.source, pair.tower)
    with pytest.raises(RuntimeError, match=r"^wide: other pixels than ours"):
        plan.write(pair.output)
    assert not pair.output.exists()


def test_only_an_rgb_picture_is_padded(pictures):
    """Transparency would be painted white, which no picture of ours is: better none than another one."""
    tower = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = plain_image_processor(tower, "pad")
    transparent = next(picture for picture in pictures if picture.stem == "transparent-palette")
    ours = ImagePipeline(tower, "pad")(transparent.parent, [transparent.name]).pixels
    painted = plain_image_processor(tower, "pad")
    painted.do_convert_rgb = True
    picture = open_picture(transparent)
    assert torch.equal(processor(images=picture, return_tensors="pt")["pixel_values"], ours)
    assert not torch.equal(painted(images=picture, return_tensors="pt")["pixel_values"], ours)
    with pytest.raises(ValueError, match="background_color"):
        processor(images=picture.convert("RGBA"))
    with pytest.raises(ValueError, match="image_aspect_ratio 'anyres'"):
        plain_image_processor(tower, "anyres")


# --- names


@pytest.mark.parametrize(
    ("stored", "published", "module"),
    [
        ("language_model.model.norm.weight", "language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("lm_head.weight", "language_model.lm_head.weight", "lm_head.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight", "lm_head.weight"),
        (
            "model.multi_modal_projector.linear_1.bias",
            "multi_modal_projector.linear_1.bias",
            "model.multi_modal_projector.linear_1.bias",
        ),
        *(
            (
                f"{start}embeddings.class_embedding",
                "vision_tower.vision_model.embeddings.class_embedding",
                "model.vision_tower.embeddings.class_embedding",
            )
            for start in (
                "vision_tower.",
                "model.vision_tower.",
                "vision_tower.vision_model.",
                "model.vision_tower.vision_model.",
            )
        ),
    ],
)  # fmt: skip
def test_a_weight_of_any_age_has_one_name(stored, published, module):
    assert published_name(stored) == published_name(published) == published_name(module) == published
    assert module_name(stored) == module


def test_renamed_shards_load_whole_and_keep_every_bit(tiny_base, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base, ignore=shutil.ignore_patterns("model*"))
    LlavaForConditionalGeneration.from_pretrained(tiny_base).save_pretrained(base, max_shard_size="100KB")
    before = {name: value for file in weight_files(base) for name, value in load_file(file).items()}
    fingerprints = base_fingerprint(base), vision_fingerprint(base)
    publish_names(base)
    after = {name: value for file in weight_files(base) for name, value in load_file(file).items()}
    assert len(weight_files(base)) > 2 and after.keys() != before.keys()
    assert after.keys() == {published_name(name) for name in before}
    assert all(torch.equal(after[published_name(name)], value) for name, value in before.items())
    index = json.loads((base / INDEX).read_text())["weight_map"]
    assert all(name in load_file(base / file) for name, file in index.items()) and len(index) == len(after)
    assert (base_fingerprint(base), vision_fingerprint(base)) == fingerprints
    _, info = LlavaForConditionalGeneration.from_pretrained(base, output_loading_info=True)
    assert not any(info.values()), info


def test_converted_names_are_published_ones(converted):
    names = load_file(converted.output / "model.safetensors").keys()
    assert all(published_name(name) == name for name in names)
    assert "vision_tower.vision_model.embeddings.class_embedding" in names


# --- the shipped base


def test_the_shipped_base_has_published_names_and_its_old_fingerprints(tmp_path):
    weights = load_file(SHIPPED / "model.safetensors")
    assert all(published_name(name) == name for name in weights)
    assert base_fingerprint(SHIPPED) == SHIPPED_FINGERPRINT
    assert vision_fingerprint(SHIPPED)["weights"] == SHIPPED_VISION
    old = shutil.copytree(SHIPPED, tmp_path / "old")
    renamed = {name.replace("vision_tower.vision_model.", "vision_tower."): v for name, v in weights.items()}
    save_file(renamed, old / "model.safetensors", {"format": "pt"})
    assert renamed.keys() != weights.keys()
    assert base_fingerprint(old) == SHIPPED_FINGERPRINT
    assert vision_fingerprint(old) == vision_fingerprint(SHIPPED)


def test_the_shipped_base_is_read_as_our_programs_read_it():
    text = load_text_side(SHIPPED, ImageChoices("pad"), "tiny")
    questions_on_all_pictures(text, TEMPLATES["tiny"], SHIPPED, 80)
    written = GenerationConfig.from_pretrained(SHIPPED)
    assert (written.eos_token_id, written.suppress_tokens, written.do_sample) == (2, [3], None)
