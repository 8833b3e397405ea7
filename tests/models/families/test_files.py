"""Bases of every family on disk: names of other ages, and what is not quantised."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.base_check import check_base
from models.base_fingerprint import base_fingerprint
from models.families.registry import FAMILIES
from models.vision_fingerprint import vision_fingerprint
from models.vlm import BaseSettings, load_base

# What `save_pretrained` writes today → how released files name it.
RELEASED = {
    "qwen2_5_vl": (("model.language_model.", "model."), ("model.visual.", "visual.")),
    "qwen3_vl": (),
    "gemma3": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    "internvl": (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")),
    "llava_next": (("vision_tower.", "vision_tower.vision_model."),),
    "idefics3": (),
    "smolvlm": (),
    "llava_onevision": (("vision_tower.", "vision_tower.vision_model."),),
}


@torch.no_grad()
def test_weights_under_the_names_of_released_files_are_the_same_base(world, tmp_path):
    if world.family.model_type not in RELEASED:
        pytest.skip("LLaVA's names of other ages are tests/models/test_base_fingerprint.py's")
    base = shutil.copytree(world.base, tmp_path / "released")
    state = load_file(base / "model.safetensors")
    for today, then in RELEASED[world.family.model_type]:
        state = {
            name.replace(today, then, 1) if name.startswith(today) else name: value
            for name, value in state.items()
        }
    save_file(state, base / "model.safetensors", {"format": "pt"})
    check_base(base)
    assert base_fingerprint(base) == base_fingerprint(world.base)
    assert vision_fingerprint(base) == vision_fingerprint(world.base)
    ids, mask = world.batch("left")
    ours, theirs = (
        vlm(ids, mask, world.features([0, 1, 2], vlm)) for vlm in (world.vlm, load_base(base, BaseSettings()))
    )
    assert torch.equal(ours, theirs)


def test_weights_of_the_tower_are_missed_and_told_apart(world, tmp_path):
    base = shutil.copytree(world.base, tmp_path / "changed")
    state, family = load_file(base / "model.safetensors"), FAMILIES[world.family.model_type]
    tower = next(iter(family.towers.values())).removeprefix("model.").split(".")[-1]
    name = max(name for name in state if f"{tower}." in name and name.endswith("weight"))
    save_file({**state, name: state[name] + 1}, base / "model.safetensors", {"format": "pt"})
    assert vision_fingerprint(base)["weights"] != vision_fingerprint(world.base)["weights"]
    del state[
        next(
            key
            for key in sorted(state)
            if f"{tower}." in key and "patch_embed" in key and key.endswith("weight")
        )
    ]
    save_file(state, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"lack {tower}\..*it is no whole {family.title} base"):
        check_base(base)


@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_language_model_is_quantised(world, bits):
    pytest.importorskip("bitsandbytes")
    vlm = world.load(bits=bits)
    named = {id(module): name for name, module in vlm.model.named_modules()}
    quantised = {
        name
        for name, module in vlm.model.named_modules()
        if any("bit" in kind.__name__ for kind in type(module).__mro__ if kind.__name__.startswith("Linear"))
    }
    inside = named[id(vlm.language_model)]
    assert len(quantised) == 7 * vlm.model.config.get_text_config().num_hidden_layers
    assert all(name.startswith(f"{inside}.") for name in quantised)
