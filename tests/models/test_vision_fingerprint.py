"""Two bases have one fingerprint if, and only if, they make the same features of the same pixels."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from models.vision_fingerprint import vision_fingerprint


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


def test_every_weight_of_tower_and_projector_counts_and_no_other(tiny_base, base):
    weights, before = load_file(base / "model.safetensors"), vision_fingerprint(tiny_base)
    assert vision_fingerprint(base) == before
    for name, value in weights.items():
        kept = value.clone()
        value.view(-1)[-1] += 1e-3  # the last number of each
        save_file(weights, base / "model.safetensors", {"format": "pt"})
        value.copy_(kept)
        differs = vision_fingerprint(base) != before
        assert differs == ("language_model" not in name and "lm_head" not in name), name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("vision_feature_layer",), -1),
        (("vision_feature_select_strategy",), "full"),
        (("projector_hidden_act",), "relu"),
        (("vision_config", "image_size"), 42),
        (("vision_config", "hidden_act"), "gelu"),
        (("vision_config", "layer_norm_eps"), 1e-3),
    ],
)
def test_every_setting_counts(path, value, base):
    before = vision_fingerprint(base)
    config = json.loads((base / "config.json").read_text())
    inner = config
    for name in path[:-1]:
        inner = inner[name]
    assert inner.get(path[-1]) != value
    inner[path[-1]] = value
    (base / "config.json").write_text(json.dumps(config))
    assert vision_fingerprint(base) != before


def test_shards_and_wider_formats_change_nothing(base, tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "narrow", max_shard_size="60kB")
    model.float().save_pretrained(tmp_path / "wide")
    assert len(list((tmp_path / "narrow").glob("*.safetensors"))) > 2
    narrow, wide = (vision_fingerprint(tmp_path / name)["weights"] for name in ("narrow", "wide"))
    assert narrow == wide != vision_fingerprint(base)["weights"]


def test_a_base_without_a_tower_is_refused(base):
    weights = load_file(base / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "vision_tower" not in name}
    save_file(kept, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lack its vision tower or projector"):
        vision_fingerprint(base)
    (base / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="no safetensors file"):
        vision_fingerprint(base)
