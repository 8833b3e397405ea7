"""A base is told by some of its weights, wherever it lies and however they are spread over files."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from models.base_fingerprint import base_fingerprint

LAYERS = "language_model.model.layers"


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "copy")


def rewrite(base, change):
    """Replace the weights of a base by change(weights)."""
    save_file(change(load_file(base / "model.safetensors")), base / "model.safetensors", {"format": "pt"})
    return base


def changed(name: str):
    """A change of one number in the first row of a weight."""

    def change(weights):
        weights[name].view(-1)[0] += 1e-3
        return weights

    return change


def test_a_moved_base_is_the_same(tiny_base, base):
    assert re.fullmatch(r"[0-9a-f]{64}", base_fingerprint(base))
    assert base_fingerprint(base) == base_fingerprint(tiny_base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_saved_again_is_the_same_in_shards_too(dtype, base, tmp_path):
    for times, size in enumerate(("1GB", "60kB")):
        model = LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype)
        base = tmp_path / f"saved {times}"
        model.save_pretrained(base, max_shard_size=size)
    assert len(list(base.glob("model-*.safetensors"))) > 2
    assert base_fingerprint(base) == base_fingerprint(tmp_path / "saved 0")


def test_the_same_numbers_in_a_wider_format_are_the_same(base, tmp_path):
    narrow = shutil.copytree(base, tmp_path / "narrow")
    rewrite(narrow, lambda weights: {name: value.half() for name, value in weights.items()})
    rewrite(base, lambda weights: {name: value.half().float() for name, value in weights.items()})
    assert base_fingerprint(narrow) == base_fingerprint(base)


def test_names_of_every_age_are_the_same(tiny_base, base):
    def renamed(weights):
        pairs = (("language_model.model.", "model.language_model."), ("language_model.lm_head", "lm_head"))
        pairs += (("multi_modal", "model.multi_modal"), ("vision_tower.", "model.vision_tower.vision_model."))
        return {
            next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), name): value
            for name, value in weights.items()
        }

    rewrite(base, renamed)
    assert "model.language_model.norm.weight" in load_file(base / "model.safetensors")
    assert base_fingerprint(base) == base_fingerprint(tiny_base)


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.embed_tokens.weight",
        f"{LAYERS}.0.self_attn.q_proj.weight",
        f"{LAYERS}.0.mlp.up_proj.weight",
        f"{LAYERS}.1.self_attn.v_proj.weight",
        f"{LAYERS}.1.mlp.down_proj.weight",
        "language_model.model.norm.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.embeddings.patch_embedding.weight",
    ],
)
def test_other_weights_are_noticed(name, tiny_base, base):
    assert base_fingerprint(rewrite(base, changed(name))) != base_fingerprint(tiny_base)


def test_another_number_of_rows_is_noticed(tiny_base, base):
    def longer(weights):
        name = "vision_tower.embeddings.position_embedding.weight"
        return {**weights, name: torch.cat([weights[name], weights[name]])}

    assert (
        load_file(base / "model.safetensors")["vision_tower.embeddings.position_embedding.weight"].shape[0]
        == 5
    )
    rewrite(base, longer)
    first = base_fingerprint(base)
    assert base_fingerprint(rewrite(base, longer)) != first != base_fingerprint(tiny_base)


def test_what_is_no_whole_base_is_refused(base, tiny_base, tmp_path):
    rewrite(base, lambda w: {name: value for name, value in w.items() if ".norm." not in name})
    with pytest.raises(ValueError, match=r"copy lack language_model\.norm\.weight"):
        base_fingerprint(base)
    (base / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"model\.safetensors is missing, cut off"):
        base_fingerprint(base)
    (base / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"copy holds no model\.safetensors.*save_pretrained"):
        base_fingerprint(base)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ValueError, match=r"gone\.safetensors is missing"):
        base_fingerprint(base)
    (base / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="is not an index of shards"):
        base_fingerprint(base)
    with pytest.raises(ValueError, match="is not a model directory"):
        base_fingerprint(tmp_path)
