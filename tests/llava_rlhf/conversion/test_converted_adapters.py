"""Adapters of the original give the same numbers here, survive the way there and back, and are refused when unfit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from llava_rlhf.conversion.adapter_layouts import POLICY_KIND, PPO_KIND, REWARD_KIND, find_original, find_ours
from llava_rlhf.conversion.adapters import plan_to_original, plan_to_ours
from llava_rlhf.runs.reward_card import RewardModelCard
from llava_rlhf.runs.role_files import POLICY
from models.adapters import AdapterBank, AdapterSpec
from models.heads import ScalarHead
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.llava_rlhf.conversion.original_adapters import (
    PUBLISHED_FIELDS,
)

TEXT = torch.tensor([[1, 20, 21, 22, 23, 30, 31, 40]])
MASK = torch.ones_like(TEXT, dtype=torch.bool)


def to_ours(source: Path, output: Path, base: Path, reward_head: Path | None = None) -> Path:
    files = find_original(source, reward_head)
    card = (
        RewardModelCard(str(base), "is it good?", False, "v1", "pad", "")
        if files.kind == REWARD_KIND
        else None
    )
    plan_to_ours(files, dict.fromkeys(files.adapters, str(base)), card).write(output)
    return output


def to_original(source: Path, output: Path, base: Path | None = None) -> Path:
    files = find_ours(source)
    plan_to_original(files, dict.fromkeys(files.adapters, base and str(base))).write(output)
    return output


def original_files(folder: Path) -> dict[str, object]:
    """Path in the folder → content of every file that a conversion writes."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "adapter_config.json":
            found[name] = {**json.loads(path.read_text()), "base_model_name_or_path": "anywhere"}
        elif path.name in ("adapter_model.bin", "reward_head", "value_head.pt"):
            found[name] = torch.load(path, weights_only=True)
    return found


def assert_same_files(found: dict[str, object], expected: dict[str, object]) -> None:
    assert list(found) == list(expected)
    for name, content in expected.items():
        if name.endswith(".json"):
            assert found[name] == content
            continue
        assert found[name].keys() == content.keys()
        for key, tensor in content.items():
            assert found[name][key].dtype == tensor.dtype and torch.equal(found[name][key], tensor), key


@torch.no_grad()
def test_the_same_numbers_as_peft_on_the_bare_language_model(small_base, weights, checkpoints, tmp_path):
    """Independent of names: PEFT loads the original's tensors where they belong, on the language model of `base`."""
    llava = LlavaForConditionalGeneration.from_pretrained(small_base, dtype=torch.float32).eval()
    language_model = LlamaForCausalLM(llava.config.get_text_config()).eval()
    language_model.model.load_state_dict(llava.model.language_model.state_dict())
    language_model.lm_head.load_state_dict(llava.lm_head.state_dict())
    bare = language_model(TEXT).logits
    settings = LoraConfig(r=4, lora_alpha=6, target_modules=PUBLISHED_FIELDS["target_modules"])
    reference = get_peft_model(language_model, settings).eval()
    assert not set_peft_model_state_dict(reference, weights).unexpected_keys
    expected = reference(TEXT).logits
    assert (expected - bare).abs().max() > 0.1

    folder = to_ours(checkpoints[POLICY_KIND], tmp_path / "ours", small_base) / POLICY
    bank = AdapterBank(
        load_base(small_base, BaseSettings()), {"policy": AdapterSpec(folder, trainable=False)}
    )
    with bank.use("policy", training=False) as vlm:
        assert_close(vlm.project(vlm(TEXT, MASK)), expected, rtol=0, atol=1e-5)
    assert_close(PeftModel.from_pretrained(llava, folder).eval()(TEXT).logits, expected, rtol=0, atol=1e-5)


def test_peft_finds_a_place_for_every_tensor(small_base, checkpoints, tmp_path):
    folder = to_ours(checkpoints[POLICY_KIND], tmp_path / "ours", small_base) / POLICY
    llava = LlavaForConditionalGeneration.from_pretrained(small_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(llava, folder)
    result = model.load_adapter(folder, "again")
    assert not result.unexpected_keys and not [key for key in result.missing_keys if "lora_" in key]
    adapted = [name for name, value in model.named_parameters() if ".lora_B.default." in name and value.any()]
    assert len(adapted) == 14 and all("language_model" in name for name in adapted)


def test_the_files_are_those_that_our_own_training_writes(small_base, checkpoints, tmp_path):
    folder = to_ours(checkpoints[POLICY_KIND], tmp_path / "ours", small_base)
    settings = LoraSettings(r=4, alpha=6, dropout=0.05)
    bank = AdapterBank(load_base(small_base, BaseSettings()), {POLICY: AdapterSpec(settings, trainable=True)})
    bank.save(POLICY, tmp_path / "trained", base_model=str(small_base))
    ours, trained = (
        json.loads((d / "adapter_config.json").read_text()) for d in (folder / POLICY, tmp_path / "trained")
    )
    assert ours == trained
    ours, trained = (
        load_file(d / "adapter_model.safetensors") for d in (folder / POLICY, tmp_path / "trained")
    )
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {
        k: (v.shape, v.dtype) for k, v in trained.items()
    }
    assert sorted(path.name for path in folder.iterdir()) == [POLICY]


def test_heads_are_read_by_the_roles(small_base, checkpoints, tmp_path):
    for kind, original, ours in (
        (REWARD_KIND, "reward_head", "reward_head.safetensors"),
        (PPO_KIND, "value_head.pt", "value_head.safetensors"),
    ):
        folder = to_ours(checkpoints[kind], tmp_path / kind, small_base)
        head = ScalarHead(48)
        head.load(folder / ours)
        state = torch.load(checkpoints[kind] / original, weights_only=True)
        hidden = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
        assert_close(head(hidden), hidden @ state["weight"][0] + state["bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [POLICY_KIND, REWARD_KIND, PPO_KIND])
def test_there_and_back(kind, small_base, checkpoints, tmp_path):
    back = to_original(to_ours(checkpoints[kind], tmp_path / "ours", small_base), tmp_path / "back")
    expected = original_files(checkpoints[kind])
    assert len(expected) == {POLICY_KIND: 2, REWARD_KIND: 3, PPO_KIND: 5}[kind]
    assert_same_files(original_files(back), expected)
    assert len([path for path in back.rglob("*") if path.is_file()]) == len(expected)


@pytest.mark.parametrize(
    "name", ["sft", "rm/checkpoint-0", "rm/checkpoint-8", "ppo/checkpoint-4", "ppo/after-step-4"]
)
def test_recorded_adapters_there_and_back(name, golden, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(golden / name, source, ignore=shutil.ignore_patterns("init", "*.npz"))
    base = save_recorded_shape(golden, tmp_path / "base")
    back = to_original(to_ours(source, tmp_path / "ours", base), tmp_path / "back")
    assert_same_files(original_files(back), original_files(source))


def save_recorded_shape(golden: Path, folder: Path) -> Path:
    """The configuration of a base in Hugging Face format with the layers of the recorded one."""
    content = json.loads((golden / "base" / "tiny-llava-original" / "config.json").read_text())
    names = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads".split()
    text = {"model_type": "llama", **{name: content[name] for name in names}}
    folder.mkdir()
    vision = {"model_type": "clip_vision_model"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava", "text_config": text, "vision_config": vision})
    )
    return folder


def test_the_way_back_from_our_own_training(small_base, tmp_path):
    """A subset of the layers, in an order of its own, and a scale that is no integer."""
    settings = LoraSettings(r=3, alpha=4.5, layers=("v_proj", "q_proj"))
    bank = AdapterBank(load_base(small_base, BaseSettings()), {POLICY: AdapterSpec(settings, trainable=True)})
    bank.save(POLICY, tmp_path / "ours" / POLICY, base_model="ours")
    back = to_original(tmp_path / "ours", tmp_path / "back", small_base)
    config = json.loads((back / "lora_default" / "adapter_config.json").read_text())
    changed = {"r": 3, "lora_alpha": 4.5, "lora_dropout": 0.0, "target_modules": ["v_proj", "q_proj"]}
    assert config == {**PUBLISHED_FIELDS, **changed, "base_model_name_or_path": str(small_base)}
    state = torch.load(back / "lora_default" / "adapter_model.bin", weights_only=True)
    assert set(state) == {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{part}.weight"
        for layer in range(2)
        for name in ("q_proj", "v_proj")
        for part in "AB"
    }
    again = to_ours(back, tmp_path / "again", small_base)
    ours, second = (load_file(f / POLICY / "adapter_model.safetensors") for f in (tmp_path / "ours", again))
    assert ours.keys() == second.keys() and all(torch.equal(ours[key], second[key]) for key in ours)
