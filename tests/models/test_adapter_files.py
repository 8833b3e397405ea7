"""Copies of adapters and their files, which are plain PEFT."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from models.adapters import AdapterBank, AdapterSpec
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import BATCH, LORA, build_bank, run
from tests.models.tiny_rows import PIXELS


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_copy_answers_bit_by_bit_alike(tiny_base, bits, checkpointing):
    bank = build_bank(tiny_base, bits=bits, checkpointing=checkpointing)
    assert not torch.allclose(run(bank, "policy"), run(bank, "reference"))
    bank.copy("policy", "reference")
    assert torch.equal(run(bank, "policy"), run(bank, "reference"))
    assert torch.equal(run(bank, "policy", training=True), run(bank, "reference", training=True))
    assert not any(p.requires_grad for p in bank.parameters_of("reference").values())


@pytest.mark.parametrize(
    "other",
    [
        LoraSettings(r=8, alpha=16.0),
        LoraSettings(r=4, alpha=16.0),
        LoraSettings(r=4, alpha=8.0, layers=("q_proj", "v_proj")),
    ],
    ids=["rank", "scale", "layers"],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_copy_between_unlike_adapters_is_refused(tiny_base, other, reverse):
    bank = build_bank(tiny_base, {"policy": AdapterSpec(LORA, True), "reference": AdapterSpec(other, False)})
    names = ("policy", "reference")[:: -1 if reverse else 1]
    before = run(bank, names[1])
    with pytest.raises(ValueError, match=f"adapters '{names[0]}' and '{names[1]}' differ"):
        bank.copy(*names)
    assert torch.equal(run(bank, names[1]), before)


def test_a_new_adapter_changes_nothing(tiny_base):
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(LORA, True)})
    plain = load_base(tiny_base, BaseSettings())
    with torch.no_grad():
        expected = plain(BATCH.input_ids, BATCH.mask, plain.encode_images(PIXELS, BATCH.image_index))
    assert torch.equal(run(bank, "policy"), expected)


def test_saved_adapters_are_plain_peft(tiny_base, shared_bank, saved):
    base = LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, saved).eval()
    with torch.no_grad():
        theirs = plain(
            input_ids=BATCH.input_ids,
            pixel_values=PIXELS[BATCH.image_index],
            attention_mask=BATCH.mask.long(),
        ).logits
        ours = shared_bank.vlm.project(run(shared_bank, "policy"))
    # Other position offsets under left padding: sums in another order.
    assert_close(ours[BATCH.mask], theirs[BATCH.mask], rtol=1e-5, atol=1e-5)
    config = json.loads((saved / ADAPTER_CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8.0)
    assert config["base_model_name_or_path"] == "tiny/base"


def test_saving_and_loading_gives_identical_outputs(tiny_base, shared_bank, saved):
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), {"reward": AdapterSpec(saved, False)})
    assert torch.equal(run(bank, "reward"), run(shared_bank, "policy"))
    other = build_bank(tiny_base)
    assert not torch.allclose(run(other, "value"), run(shared_bank, "policy"))
    other.load("value", saved)
    assert torch.equal(run(other, "value"), run(shared_bank, "policy"))
    assert all(p.requires_grad for p in other.parameters_of("value").values())


@pytest.mark.parametrize(
    "lora", [LoraSettings(r=8, alpha=16.0), LoraSettings(r=4, alpha=8.0, layers=("q_proj",))]
)
def test_a_file_of_another_shape_is_refused(tiny_base, saved, lora):
    bank = build_bank(tiny_base, {"policy": AdapterSpec(lora, True)})
    before = run(bank, "policy")
    with pytest.raises(
        ValueError, match=r"does not fit adapter 'policy': \d+ keys missing, unexpected or of another shape"
    ):
        bank.load("policy", saved)
    assert torch.equal(run(bank, "policy"), before)


def test_a_file_of_another_scale_is_refused(tiny_base, saved):
    bank = build_bank(tiny_base, {"policy": AdapterSpec(LoraSettings(r=4, alpha=16.0), True)})
    with pytest.raises(ValueError, match=r"does not fit adapter 'policy': .*scale"):
        bank.load("policy", saved)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_file_with_other_keys_is_refused(tiny_base, saved, tmp_path, change):
    folder = shutil.copytree(saved, tmp_path / "changed")
    state = load_file(folder / ADAPTER_WEIGHTS)
    key = sorted(state)[0]
    if change == "missing":
        del state[key]
    else:
        state[key.replace("layers.0", "layers.9")] = state[key].clone()
    save_file(state, folder / ADAPTER_WEIGHTS)
    with pytest.raises(ValueError, match="1 keys missing, unexpected or of another shape"):
        AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(folder, True)})


@pytest.mark.parametrize("lost", [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
def test_an_incomplete_folder_is_refused(tiny_base, shared_bank, saved, tmp_path, lost):
    folder = shutil.copytree(saved, tmp_path / "changed")
    (folder / lost).unlink()
    with pytest.raises(ValueError, match=f"not an adapter folder: it lacks {lost}"):
        AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(folder, True)})
    with pytest.raises(ValueError, match=f"not an adapter folder: it lacks {lost}"):
        shared_bank.load("policy", folder)


def test_another_kind_of_adapter_is_refused(tiny_base, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "changed")
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="is not LORA"):
        AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(folder, True)})
