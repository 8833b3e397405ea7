"""Adapters in names of other ages, and settings that reach beyond the language model: read as what they mean."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from models.adapter_files import check_adapter_fits, read_adapter_config, read_adapter_tensors
from models.adapter_names import HF_LAYERS, on_language_model, present_tensor_name
from models.adapters import AdapterBank, AdapterSpec
from models.families.base import Family
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import run

OLD_LAYERS = "base_model.model.language_model.model.layers."
FULL_NAMES = [
    f"language_model.model.layers.{layer}.{part}"
    for layer in range(2)
    for part in ("self_attn.q_proj", "mlp.up_proj")
]


@pytest.fixture(scope="module")
def written(tiny_base, tmp_path_factory):
    """written(**settings): a folder as PEFT writes it on the tiny base, with random numbers."""

    def _written(**settings):
        folder = tmp_path_factory.mktemp("adapters") / "peft"
        model = LlavaForConditionalGeneration.from_pretrained(tiny_base)
        wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if ".lora_" in name:
                    weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
        wrapped.save_pretrained(folder)
        return folder

    return _written


def renamed(source, target, change, **fields):
    """A copy with changed names of tensors and changed settings."""
    shutil.copytree(source, target)
    state = load_file(target / "adapter_model.safetensors")
    save_file({change(name): value for name, value in state.items()}, target / "adapter_model.safetensors")
    content = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**content, **fields}))
    return target


def answers(base, folder):
    check_adapter_fits(folder, base)
    return run(AdapterBank(load_base(base, BaseSettings()), {"it": AdapterSpec(folder, False)}), "it")


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("layers.0.self_attn.q_proj.lora_A.weight", "layers.0.self_attn.q_proj.lora_A.weight"),
        ("layers.1.mlp.up_proj.lora_B.weight", "layers.1.mlp.up_proj.lora_B.default.weight"),
    ],
)
def test_names_of_every_age_become_todays(new, old):
    for start in (OLD_LAYERS, HF_LAYERS, "base_model.model.language_model.layers."):
        assert present_tensor_name(start + old) == HF_LAYERS + new
    original = "base_model.model.model.layers." + old  # told by these names, so they stay
    assert present_tensor_name(original) == original
    assert present_tensor_name("base_model.model.language_model.lm_head.lora_A.weight").startswith(
        "base_model.model.lm_head."
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"target_modules": r"language_model\.model\.layers\.\d+\.(self_attn|mlp)\.(q_proj|up_proj)"},
        {"target_modules": FULL_NAMES},
    ],
    ids=["our pattern", "a pattern of old names", "old names in full"],
)
def test_an_adapter_in_old_names_answers_bit_by_bit_alike(fields, written, tiny_base, tmp_path):
    new = written(target_modules=Family.lora_pattern(["q_proj", "up_proj"]))
    old = renamed(new, tmp_path / "old", lambda name: name.replace(HF_LAYERS, OLD_LAYERS), **fields)
    assert all(name.startswith(OLD_LAYERS) for name in load_file(old / "adapter_model.safetensors"))
    assert torch.equal(answers(tiny_base, old), answers(tiny_base, new))


def test_what_is_trained_from_old_names_is_saved_in_todays(written, tiny_base, tmp_path):
    new = written(target_modules=Family.lora_pattern(["q_proj", "up_proj"]))
    old = renamed(
        new, tmp_path / "old", lambda name: name.replace(HF_LAYERS, OLD_LAYERS), target_modules=FULL_NAMES
    )
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(old, True)})
    bank.save("policy", tmp_path / "saved")
    assert (
        read_adapter_tensors(new).keys() == load_file(tmp_path / "saved" / "adapter_model.safetensors").keys()
    )
    base = LlavaForConditionalGeneration.from_pretrained(tiny_base)
    assert len(PeftModel.from_pretrained(base, tmp_path / "saved").targeted_module_names) == 4


def test_a_list_of_names_that_would_reach_the_tower_is_read_for_the_language_model(
    written, tiny_base, tmp_path
):
    pattern = written(target_modules=Family.lora_pattern(["q_proj", "v_proj"]))
    listed = renamed(pattern, tmp_path / "listed", str, target_modules=["q_proj", "v_proj"])
    assert torch.equal(answers(tiny_base, listed), answers(tiny_base, pattern))


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "v_proj"]])
def test_what_peft_makes_of_such_a_list_adapts_the_tower(target, written, tiny_base):
    with pytest.raises(ValueError, match=r"adapts the vision tower .*merge it into its base with PEFT first"):
        check_adapter_fits(written(target_modules=target), tiny_base)


def test_ranks_by_layer_are_renamed_too(written, tiny_base, tmp_path):
    key = "language_model.layers.1.self_attn.q_proj"
    new = written(target_modules=Family.lora_pattern(["q_proj"]), rank_pattern={key: 2})
    old_key = key.replace("language_model.", "language_model.model.")
    old = renamed(
        new, tmp_path / "old", lambda n: n.replace(HF_LAYERS, OLD_LAYERS), rank_pattern={old_key: 2}
    )
    assert torch.equal(answers(tiny_base, old), answers(tiny_base, new))


def test_our_own_settings_are_left_as_they_are(written):
    pattern = Family.lora_pattern(["q_proj", "up_proj"])
    config = read_adapter_config(written(target_modules=pattern))
    assert on_language_model(config, 2, LANGUAGE_MODEL_LINEAR_LAYERS).target_modules == pattern
