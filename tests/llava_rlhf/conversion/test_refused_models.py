"""Originals that cannot be converted are refused before any weight is read, with what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llava_rlhf.conversion import original_config, original_files
from llava_rlhf.conversion.base_model import plan_base
from models.base_check import check_base
from tests.llava_rlhf.conversion.conftest import Converted
from tests.support.original_models import language_weights, tower_weights, write_json, write_weights


def edit_json(path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text()) | changes
    write_json(path, {name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, r"model_type 'llama' is not an original LLaVA model"),
        ({"mm_vision_tower": None}, "names no mm_vision_tower"),
        ({"vision_config": {}}, "in Hugging Face format already"),
        ({"mm_use_im_start_end": True}, "image start and end tokens are not supported"),
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type 'mlp3x_gelu'.*linear, mlp2x_gelu"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls'.*patch, cls_patch"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres'"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
        ({"mm_vision_select_layer": None}, "lacks mm_vision_select_layer"),
        ({"mm_vision_select_layer": -5}, "mm_vision_select_layer -5.*has 4 hidden states"),
        ({"mm_hidden_size": 1024}, "hidden_size 24.*mm_hidden_size 1024.*--vision_tower DIR"),
        ({"vocab_size": 379}, "vocab_size 379, but the tokenizer .* has 380 tokens"),
    ],
)
def test_configurations(pair, changes, message):
    edit_json(pair.source / "config.json", **changes)
    with pytest.raises(ValueError, match=rf"(?s)config\.json.*{message}|{message}"):
        plan_base(pair.source, pair.tower)


def drop(folder: str, name: str) -> Callable[[Converted], None]:
    return lambda pair: (getattr(pair, folder) / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("source", "config.json"), "original is not a model directory"),
        (drop("source", "tokenizer.model"), r"has no tokenizer\.model and no tokenizer\.json"),
        (drop("source", "model.safetensors"), "original holds no weights"),
        (drop("tower", "pytorch_model.bin"), "tower holds no weights"),
        (drop("tower", "preprocessor_config.json"), r"preprocessor_config\.json: no such file"),
        (drop("tower", "config.json"), r"somebody/clip-tiny-patch14 \(mm_vision_tower\).*--vision_tower DIR"),
        (lambda pair: (pair.source / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda pair: (pair.source / "tokenizer.model").write_bytes(b"x"), "is no sentencepiece model"),
        (
            lambda pair: edit_json(pair.tower / "config.json", model_type="siglip_vision_model"),
            "'siglip_vision_model' is no CLIP model",
        ),
        (
            lambda pair: edit_json(pair.tower / "preprocessor_config.json", crop_size=224),
            "makes images of .*224.*takes 70 x 70",
        ),
    ],
)
def test_files(pair, spoil, message):
    spoil(pair)
    with pytest.raises(ValueError, match=message):
        plan_base(pair.source, pair.tower)


def without(weights: dict, *names: str) -> dict:
    return {name: value for name, value in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "lm_head.weight"), "1 missing: lm_head.weight"),
        (lambda w: without(w, "model.mm_projector.2.bias"), r"1 missing: model\.mm_projector\.2\.bias"),
        (
            lambda w: {n: v for n, v in w.items() if ".layers.1." not in n},
            r"9 missing: model\.layers\.1\.self_attn\.q_proj",
        ),
        (
            lambda w: w | {"model.image_newline": torch.ones(2)},
            r"1 not expected: model\.image_newline",
        ),
        (
            lambda w: w | {"model.layers.2.mlp.up_proj.weight": torch.ones(2)},
            r"1 not expected: model\.layers\.2",
        ),
        (
            lambda w: w | {"model.norm.weight": torch.ones(47)},
            r"model\.norm\.weight: torch\.float32 \[47\], expected \[48\]",
        ),
        (
            lambda w: w | {"lm_head.weight": torch.ones(381, 48)},
            r"lm_head\.weight: torch\.float32 \[381, 48\], expected \[380, 48\]",
        ),
        (
            lambda w: w | {"lm_head.weight": torch.ones(380, 48, dtype=torch.int8)},
            r"lm_head\.weight: torch\.int8",
        ),
        (
            lambda w: (
                w | {"model.vision_tower.vision_tower.vision_model.post_layernorm.bias": torch.ones(24)}
            ),
            r"missing: model\.vision_tower\.vision_tower\.vision_model\.embeddings.* and \d+ more",
        ),
    ],
)
def test_weights_that_do_not_fit_the_configuration(pair, change, message):
    write_weights(pair.source, change(language_weights(pair.shape)), ending="safetensors")
    with pytest.raises(ValueError, match=message):
        plan_base(pair.source, pair.tower)


def test_a_tower_with_another_layer_or_size_is_refused(pair):
    weights = tower_weights(pair.shape)
    weights["vision_model.encoder.layers.9.mlp.fc1.bias"] = torch.ones(48)
    weights["vision_model.embeddings.position_embedding.weight"] = torch.ones(5, 24)
    write_weights(pair.tower, weights)
    with pytest.raises(ValueError, match=r"1 not expected: .*layers\.9.*1 not as configured: .*\[5, 24\]"):
        plan_base(pair.source, pair.tower)


def test_a_plan_reads_headers_alone(pair, monkeypatch):
    """The header is enough: a plan is made of files whose values are not there."""
    monkeypatch.setattr(original_files, "read_tensors", None)
    plan_base(pair.source, pair.tower)


# --- where the tower is looked for


def test_the_tower_is_found_where_the_configuration_points(pair, tmp_path, monkeypatch):
    (tmp_path / "somebody").mkdir()
    beside = pair.tower.rename(tmp_path / "somebody" / "clip-tiny-patch14")
    assert plan_base(pair.source, None).vision_tower == beside
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "somebody").rename(elsewhere / "somebody")
    with pytest.raises(ValueError, match=r"mm_vision_tower.*--vision_tower DIR"):
        plan_base(pair.source, None)
    monkeypatch.chdir(elsewhere)
    assert plan_base(pair.source, None).vision_tower.resolve() == (
        elsewhere / "somebody" / "clip-tiny-patch14"
    )


def test_a_tower_that_was_given_is_not_looked_for_elsewhere(pair, tmp_path):
    (tmp_path / "somebody").mkdir()
    pair.tower.rename(tmp_path / "somebody" / "clip-tiny-patch14")
    with pytest.raises(ValueError, match=r"no config\.json in .*/tower;"):
        plan_base(pair.source, pair.tower)


# --- an original given to the programs


def test_an_original_given_as_a_base_is_answered_with_the_command(pair):
    command = rf"bash scripts/convert_checkpoint\.sh --input {pair.source} --vision_tower DIR --output DIR"
    for model_type in original_config.ORIGINAL_MODEL_TYPES:
        edit_json(pair.source / "config.json", model_type=model_type)
        with pytest.raises(ValueError, match=command):
            check_base(pair.source)


def test_other_directories_are_refused_as_a_base(pair):
    edit_json(pair.source / "config.json", mm_vision_tower=None)
    with pytest.raises(ValueError, match=r"not a LLaVA .*model in Hugging Face format"):
        check_base(pair.source)
    (pair.source / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        check_base(pair.source)
    (pair.source / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        check_base(pair.source)
