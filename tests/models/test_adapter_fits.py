"""Every tensor of an adapter must have its place in the base, seen from file headers alone."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from models.adapter_files import check_adapter_fits
from models.adapters import AdapterBank, AdapterSpec
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base

FIRST = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "policy"
    bank = AdapterBank(
        load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(LoraSettings(r=4), trainable=True)}
    )
    bank.save("policy", folder)
    return folder


@pytest.fixture
def copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "copy")


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*language_model.*\.(q_proj|v_proj)"},
        {"target_modules": r".*language_model.*\.(q_proj)", "rank_pattern": {"layers.1.self_attn.q_proj": 2}},
        {"target_modules": ["gate_proj", "down_proj"]},
    ],
)
def test_what_peft_writes_fits(settings, tiny_base, tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(tiny_base)
    get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings)).save_pretrained(tmp_path)
    check_adapter_fits(tmp_path, tiny_base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != FIRST}, rf"1 missing: {FIRST}$"),
        (lambda w: {k: v for k, v in w.items() if "layers.1." not in k}, "14 missing"),
        (lambda w: {k: v for k, v in w.items() if "up_proj" not in k}, "4 missing"),
        (lambda w: {**w, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)}, r"copy adapts lm_head \(1 of its tensors, such as .*lm_head.*merge it into its base with PEFT"),
        (lambda w: {**w, FIRST: w[FIRST][:3]}, r"1 of another shape: .*is \[3, 64\], should be \[4, 64\]"),
        (lambda w: {k: v[:, :32].contiguous() if "down_proj.lora_A" in k else v for k, v in w.items()}, r"2 of another shape: .*\[4, 32\]"),
        (lambda w: {**w, FIRST: w[FIRST].to(torch.int8)}, "must hold floating-point numbers, but not so .*q_proj"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message, copy, tiny_base):
    check_adapter_fits(copy, tiny_base)
    file = copy / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(ValueError, match=message):
        check_adapter_fits(copy, tiny_base)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 8}, "28 of another shape"),
        ({"r": 0}, "r is 0, must be a positive integer"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, must be a number above 0"),
        ({"lora_alpha": 0}, "lora_alpha is 0, must be a number above 0"),
        ({"target_modules": r".*language_model.*\.(q_proj)"}, "24 unexpected"),
    ],
)
def test_settings_that_do_not_fit_are_named(fields, message, copy, tiny_base):
    edit(copy, **fields)
    with pytest.raises(ValueError, match=message):
        check_adapter_fits(copy, tiny_base)


def test_a_base_of_the_same_width_with_other_layers_is_refused(copy, tiny_base, tmp_path):
    for field, value, message in (
        ("intermediate_size", 96, "6 of another shape"),
        ("num_key_value_heads", 4, "4 of another shape"),
        ("num_hidden_layers", 3, "14 missing"),
        ("num_hidden_layers", 1, "14 unexpected"),
    ):
        content = json.loads((tiny_base / "config.json").read_text())
        content["text_config"][field] = value
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=f"was trained on another base than .*, or is not whole.*{message}"
        ):
            check_adapter_fits(copy, tmp_path)
