"""Adapters that PEFT wrote on Hugging Face's LLaVA: told from those of 2023 by their tensors' names, not by the file's ending."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from llava_rlhf import convert_checkpoint, export_policy
from llava_rlhf.runs.role_files import find_policy_adapter
from models.adapter_files import check_adapter_fits, is_original_adapter, read_adapter_config
from tests.llava_rlhf.conversion.original_adapters import write_adapter
from tests.support.tiny_data import command_line

ORIGINAL = "base_model.model.model.layers."
PRESENT = "base_model.model.model.language_model.layers."
BEFORE_4_52 = "base_model.model.language_model.model.layers."


def named(weights, start):
    return {name.replace(ORIGINAL, start): value for name, value in weights.items()}


@pytest.mark.parametrize("start", [PRESENT, BEFORE_4_52])
def test_a_pickle_is_converted_as_the_message_says(start, small_base, weights, tmp_path):
    source = write_adapter(tmp_path / "pickled", named(weights, start))
    assert not is_original_adapter(source)
    with pytest.raises(
        ValueError, match=r"(?s)holds its weights as a pickle.*convert_checkpoint\.sh --input"
    ):
        read_adapter_config(source)
    argv = command_line(input=source, base_model=small_base, output=tmp_path / "ours")
    convert_checkpoint.run(convert_checkpoint.prepare(argv))
    adapter = find_policy_adapter(tmp_path / "ours")
    check_adapter_fits(adapter, small_base)
    state, expected = load_file(adapter / "adapter_model.safetensors"), named(weights, PRESENT)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("start", [PRESENT, BEFORE_4_52])
def test_safetensors_need_no_conversion(start, small_base, weights, tmp_path):
    source = write_adapter(tmp_path / "peft", named(weights, start), "safetensors")
    check_adapter_fits(find_policy_adapter(source), small_base)
    with pytest.raises(ValueError, match="is in the Hugging Face layout already"):
        convert_checkpoint.prepare(
            command_line(input=source, base_model=small_base, output=tmp_path / "ours")
        )


def test_an_adapter_of_the_tower_is_not_called_one_of_another_rank(small_base, weights, tmp_path):
    tower = "base_model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    source = write_adapter(tmp_path / "tower", {**named(weights, BEFORE_4_52), tower: torch.ones(4, 4)})
    with pytest.raises(ValueError, match=r"adapts the vision tower .*merge it into its base with PEFT"):
        convert_checkpoint.prepare(
            command_line(input=source, base_model=small_base, output=tmp_path / "ours")
        )


def test_old_names_are_merged_and_exported_as_todays(small_base, weights, tmp_path):
    written = {}
    for start in (PRESENT, BEFORE_4_52):
        source = write_adapter(tmp_path / start, named(weights, start), "safetensors")
        for only in (True, False):
            output = tmp_path / f"{start} {only}"
            flags = {"base_model_name": small_base, "adapter": source, "output_dir": output}
            export_policy.run(export_policy.prepare(command_line(**flags, adapter_only=only, check_rows=0)))
            written[start, only] = output
    for only, file in ((True, "adapter_model.safetensors"), (False, "model.safetensors")):
        new, old = (load_file(written[start, only] / file) for start in (PRESENT, BEFORE_4_52))
        assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)
    config = json.loads((written[BEFORE_4_52, True] / "adapter_config.json").read_text())
    assert "language_model" in config["target_modules"]  # not the tower's layers of the same names


@pytest.mark.parametrize("name", ["/no/such/base", "./somebody/llava"])
def test_a_base_that_is_not_there_is_told_as_it_was_written(name, weights, tmp_path):
    source = write_adapter(tmp_path / "adapter", weights)
    with pytest.raises(ValueError, match=f"^{name} is not a model directory: no such folder"):
        convert_checkpoint.prepare(command_line(input=source, base_model=name, output=tmp_path / "ours"))
