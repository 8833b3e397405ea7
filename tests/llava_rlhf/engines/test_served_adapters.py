"""Versions of the policy's adapter: their names, their folders, and what is made of a server's answers to the probe."""

from __future__ import annotations

import resource

import pytest
import torch
from safetensors.torch import load_file

from llava_rlhf.engines.adapters import ServedAdapter
from llava_rlhf.engines.loading import Said, Version, refusal
from llava_rlhf.engines.probe import ProbeAnswer, choose_probe, differences, fits
from llava_rlhf.engines.prompts import PromptWriter
from llava_rlhf.runs.stopping import EngineError


@pytest.fixture
def adapter(parts, tmp_path):
    return ServedAdapter(parts.roles.policy, None, tmp_path / "adapters", None, "base")


@pytest.fixture
def state(parts):
    policy = parts.roles.policy
    return {key: value.clone() for key, value in policy.bank.state_dict_of(policy.adapter).items()}


def test_a_version_is_a_plain_adapter_folder(adapter, state):
    version = adapter._write(4, state)
    assert version.name.startswith("policy-step5-") and version.folder.name == version.name
    assert sorted(file.name for file in version.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    written = load_file(version.folder / "adapter_model.safetensors")
    assert all(torch.equal(written[key], value) for key, value in state.items()) and not version.empty
    assert [path.name for path in adapter._folder.iterdir()] == [version.name]


def test_a_name_stands_for_its_weights_step_and_run(adapter, state, parts, tmp_path):
    names = [adapter._write(0, state).name, adapter._write(0, state).name, adapter._write(1, state).name]
    key = next(iter(state))
    state[key].view(-1)[0] += 1e-6
    names.append(adapter._write(0, state).name)
    state[key].view(-1)[0] -= 1e-6
    other = ServedAdapter(parts.roles.policy, None, tmp_path / "another run", None, "base")
    names.append(other._write(0, state).name)
    assert names[0] == names[1] and len(set(names)) == 4


def test_an_adapter_that_was_never_trained_is_known(adapter, state):
    for key, value in state.items():
        if "lora_B" in key:
            value.zero_()
    assert adapter._write(0, state).empty


def test_a_full_disk_is_said_and_leaves_no_half_adapter(adapter, state):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(EngineError, match=r"policy-step1-.* could not be written to .* Make room"):
            adapter._write(0, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in adapter._folder.rglob("*") if path.is_file()]


def test_a_server_in_sixteen_bits_beside_training_in_float32_is_named(adapter, tmp_path):
    table = torch.log_softmax(torch.arange(12.0).reshape(3, 4), dim=1)
    version = Version("policy-step1", tmp_path, False)

    def said(off: float) -> Said:
        entries = tuple((place, 3, float(table[place, 3]) + off) for place in range(3))
        return Said("http://a:1", ProbeAnswer((3, 3, 3), entries), ProbeAnswer((3, 3, 3), ()))

    adapter._compare(version, said(1e-5), table)
    with pytest.raises(EngineError, match=r"in float32, and so must it \(DTYPE=float32\)"):
        adapter._compare(version, said(0.02), table)
    with pytest.raises(EngineError, match=r"nats\): it has another base"):
        adapter._compare(version, said(0.5), table)


def test_a_refusal_says_what_to_do(tmp_path):
    assert "higher LORA_RANK" in refusal(
        "http://a:1", tmp_path, "LoRA rank 64 is greater than max_lora_rank 16."
    )
    assert "--vllm_adapter_folder" in refusal("http://a:1", tmp_path, "No adapter found for /x")
    assert "server's log" in refusal("http://a:1", tmp_path, "out of luck")


def test_the_probe_is_the_longest_prompt_with_a_picture(parts):
    prompts = parts.prepared.prompts
    probe = choose_probe(
        prompts, PromptWriter(parts.prepared.text, None), parts.trainer.collector.engine.settings
    )
    lengths = [
        len(item.query_ids) for item in map(prompts.__getitem__, range(len(prompts))) if item.image_names
    ]
    assert probe.item.image_names and len(probe.item.query_ids) == max(lengths)


def test_differences_are_taken_where_both_drew_the_same():
    table = torch.log_softmax(torch.arange(12.0).reshape(3, 4), dim=1)
    entries = tuple((place, token, float(table[place, token])) for place in range(3) for token in (1, 3))
    answer = ProbeAnswer((3, 3, 3), entries)
    assert fits(differences(answer, table, (3, 3, 3)), exact=True)
    moved = ProbeAnswer((3, 3, 3), (*entries[:-1], (2, 3, float(table[2, 3]) - 0.01)))
    assert not fits(differences(moved, table, (3, 3, 3)), exact=True)
    assert fits(differences(moved, table, (3, 3, 3)), exact=False)
    # Behind the first place that differs both continue something else.
    assert fits(differences(moved, table, (3, 0, 3)), exact=True)
    assert len(differences(moved, table, (3, 0, 3))) == 4
    # What nobody draws is not looked at, and nothing to look at is no proof.
    assert len(differences(ProbeAnswer((3,), ((0, 3, -50.0),)), table, (3,))) == 0
    assert not fits(torch.tensor([]), exact=True) and not fits(torch.tensor([torch.nan]), exact=False)
