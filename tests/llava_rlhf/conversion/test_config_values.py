"""Settings of an original and its tower that can't be right are refused with the file's and the field's name."""

from __future__ import annotations

import json

import pytest

from llava_rlhf import convert_checkpoint
from llava_rlhf.conversion.base_model import plan_base
from llava_rlhf.conversion.original_config import named_image_size
from tests.support.original_models import OriginalShape, tower_weights, write_tower, write_weights
from tests.support.tiny_data import command_line


def edit_json(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "48"}, "hidden_size is '48', must be a positive integer"),
        ({"vocab_size": 380.0}, "vocab_size is 380.0, must be a positive integer"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, must be a positive integer"),
        ({"num_key_value_heads": True}, "num_key_value_heads is True, must be a positive integer"),
        ({"num_attention_heads": 5}, "hidden_size 48 is no multiple of num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small', must be a number from 0 on"),
        ({"hidden_act": "nope"}, "hidden_act 'nope' is not known; known: .*silu"),
        ({"hidden_act": ["silu"]}, r"hidden_act \['silu'\] is not known"),
        ({"attention_bias": "no"}, "attention_bias"),
        ({"rope_scaling": {"type": "weird", "factor": 2.0}}, "rope_scaling has the type 'weird', known: default, linear"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of the type linear lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor of rope_scaling is '2', must be a number"),
        ({"rope_scaling": [2.0]}, r"rope_scaling is \[2.0\], must be an object"),
        ({"rope_theta": "1e4"}, "rope_theta is '1e4', must be a number"),
        ({"mm_vision_tower": 336}, "mm_vision_tower is 336, must be a name"),
    ],
)  # fmt: skip
def test_of_the_language_model(changes, message, pair):
    edit_json(pair.source / "config.json", **changes)
    with pytest.raises(ValueError, match=rf"original/config\.json: .*{message}"):
        plan_base(pair.source, pair.tower)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": "14"}, "patch_size is '14', must be a positive integer"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 5}, "hidden_size 24 is no multiple of num_attention_heads 5"),
        ({"hidden_act": "nope"}, "hidden_act 'nope' is not known"),
        ({"initializer_factor": "x"}, "initializer_factor"),
        ({"model_type": "clip", "vision_config": [1]}, "vision_config must be a JSON object"),
    ],
)
def test_of_the_tower(changes, message, pair):
    edit_json(pair.tower / "config.json", **changes)
    with pytest.raises(ValueError, match=rf"(?s)tower/config\.json: .*{message}"):
        plan_base(pair.source, pair.tower)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": "x"}, "image_mean is 'x', must be three numbers$"),
        ({"image_std": [0.2, 0, 0.3]}, r"image_std is \[0\.2, 0, 0\.3\], must be three numbers above 0"),
        ({"crop_size": "70"}, "can't be used as image processor settings"),
        ({"size": {"width": 70}}, "can't be used as image processor settings"),
        ({"resample": "sharp"}, "resample is 'sharp', must be an integer from 0 to 5"),
    ],
)
def test_of_the_image_processor(changes, message, pair):
    edit_json(pair.tower / "preprocessor_config.json", **changes)
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json:? {message}"):
        plan_base(pair.source, pair.tower)


def test_an_image_processor_that_is_no_json(pair):
    (pair.tower / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is not JSON"):
        plan_base(pair.source, pair.tower)


def test_ids_of_added_tokens(pair):
    (pair.source / "added_tokens.json").write_text('{"<a>": 381, "<b>": "382"}')
    with pytest.raises(
        ValueError, match=r"added_tokens\.json: ids must be integers, not so \{'<b>': '382'\}"
    ):
        plan_base(pair.source, pair.tower)


# --- the tower that the name speaks of


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("openai/clip-vit-large-patch14-336", 336),
        ("/data/towers/clip-vit-large-patch14-336/", 336),
        ("openai/clip-vit-large-patch14", 224),
        ("openai/clip-vit-base-patch16", 224),
        ("/data/towers/clip-2023", None),
        ("somebody/clip-tiny-patch14", None),
    ],
)
def test_names_tell_the_size_of_images(name, size):
    assert named_image_size(name) == size


def test_a_tower_for_images_of_another_size_is_refused(pair, tmp_path):
    """Without the class token nothing in the SFT model's weights depends on the size of its images."""
    edit_json(pair.source / "config.json", mm_vision_tower="somebody/clip-tiny-patch14-70")
    plan_base(pair.source, pair.tower)
    smaller = write_tower(tmp_path / "smaller", OriginalShape(image_size=56))
    message = (
        r"smaller/config\.json: image_size 56, but .*tiny-patch14-70 .*, of 70 pixels; .*--vision_tower DIR"
    )
    with pytest.raises(ValueError, match=message):
        plan_base(pair.source, smaller)


def test_the_program_says_which_tower_it_takes(pair, tmp_path, capsys):
    argv = command_line(input=pair.source, vision_tower=pair.tower, output=tmp_path / "one")
    convert_checkpoint.run(convert_checkpoint.prepare(argv))
    line = f"vision tower: {pair.tower} (70 x 70 pixels)"
    assert f"{line}\n" in capsys.readouterr().out
    own = {
        f"model.vision_tower.vision_tower.{name}": value for name, value in tower_weights(pair.shape).items()
    }
    (pair.source / "model.safetensors").rename(pair.source / "model-00001-of-00002.safetensors")
    write_weights(tmp_path, own, ending="safetensors")
    (tmp_path / "model.safetensors").rename(pair.source / "model-00002-of-00002.safetensors")
    argv = command_line(input=pair.source, vision_tower=pair.tower, output=tmp_path / "two")
    convert_checkpoint.run(convert_checkpoint.prepare(argv))
    assert f"{line}; its weights are those that {pair.source} holds itself" in capsys.readouterr().out


def test_weights_in_two_formats_are_refused_but_not_a_towers(pair, tmp_path):
    write_weights(pair.tower, tower_weights(pair.shape), ending="safetensors")
    plan_base(pair.source, pair.tower)
    (pair.source / "pytorch_model-00001-of-00002.bin").write_bytes(b"older")
    message = r"original holds weights in two formats, model\.safetensors and pytorch_model-00001"
    with pytest.raises(ValueError, match=message):
        plan_base(pair.source, pair.tower)
