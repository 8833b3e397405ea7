"""All three programs on a quantised base on the CPU: 4-bit NF4 with double quantisation, and 8-bit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.assembly import reward_models as assemble
from models.adapters import AdapterBank, AdapterSpec
from models.vlm import BaseSettings, VisionLanguageModel, load_base
from tests.support.tiers import tiered
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command, write_tiny_data

LAYERS = {4: bitsandbytes.nn.Linear4bit, 8: bitsandbytes.nn.Linear8bitLt}
FINITE_ABOVE_ZERO = "loss grad_norm ppo/loss/value ppo/loss/grad_norm".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("four_bit") / "data")


@pytest.fixture
def loaded(monkeypatch) -> list[tuple[VisionLanguageModel, dict[str, torch.Tensor]]]:
    """Every base that a program loads, with a copy of its weights as they were."""
    bases = []

    def load_and_remember(path, settings):
        base = load_base(path, settings)
        bases.append((base, frozen_bytes(base)))
        return base

    monkeypatch.setattr(assemble, "load_base", load_and_remember)
    return bases


def frozen_bytes(base: VisionLanguageModel) -> dict[str, torch.Tensor]:
    """The stored weights (quantised ones as their integers), under names that adapters do not change."""
    named = base.model.named_parameters()
    return {
        name.replace(".base_layer", ""): weight.detach().clone()
        for name, weight in named
        if "lora_" not in name
    }


def train_all_three(data: TinyData, base: Path, root: Path, **settings) -> None:
    """Reward model and policy init of 3 steps, PPO of 2; finite numbers all along."""
    train_reward_model.run(
        train_reward_model.prepare(reward_command(data, base, root / "reward", max_steps=3, **settings))
    )
    initialize_policy_model.run(
        initialize_policy_model.prepare(policy_command(data, base, root / "policy", max_steps=3, **settings))
    )
    argv = ppo_command(data, base, root / "policy", root / "reward", root / "ppo", **settings)
    train_rl_model.run(train_rl_model.prepare(argv))
    for name, steps in (("reward", 3), ("policy", 3), ("ppo", 2)):
        lines = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        steps_logged = [line for line in lines if "loss" in line or "ppo/loss/policy" in line]
        assert len(steps_logged) == steps
        for line in steps_logged:
            assert all(math.isfinite(value) for value in line.values())
            assert all(line[key] > 0 for key in FINITE_ABOVE_ZERO if key in line)


@pytest.mark.parametrize("bits", tiered([4, 8], daily=[4]))
def test_the_programs_train_on_a_quantised_base(bits, data, tiny_base, tmp_path, loaded):
    train_all_three(data, tiny_base, tmp_path, bits=bits)
    assert len(loaded) == 3  # PPO: one base for the four roles
    for base, before in loaded:
        after = frozen_bytes(base)
        assert_close(after, before, rtol=0, atol=0)
        quantised = [name for name, module in base.model.named_modules() if type(module) is LAYERS[bits]]
        assert len(quantised) == 2 * 7  # every linear layer of the two language layers
        assert all("language_model" in name for name in quantised)


@pytest.mark.nightly
def test_paged_8_bit_adam_and_checkpointing_under_ppo(data, tiny_base, tmp_path, loaded):
    """The published memory savers together: NF4 base, paged AdamW, recomputed activations."""
    train_all_three(data, tiny_base, tmp_path, bits=4, optim="paged_adamw_32bit", gradient_checkpointing=True)
    assert_close(frozen_bytes(loaded[-1][0]), loaded[-1][1], rtol=0, atol=0)


def test_an_adapter_trained_at_4_bits_loads_elsewhere(data, tiny_base, tmp_path):
    """On a 4-bit base by our own loader, and on the unquantised base by PEFT alone; in both places it changes the answer."""
    argv = policy_command(data, tiny_base, tmp_path, bits=4, learning_rate=1e-2)
    initialize_policy_model.run(initialize_policy_model.prepare(argv))
    adapter = tmp_path / "lora_policy"
    saved = load_file(adapter / "adapter_model.safetensors")

    bank = AdapterBank(
        load_base(tiny_base, BaseSettings(bits=4)), {"a": AdapterSpec(adapter, trainable=False)}
    )
    assert_close(dict(bank.state_dict_of("a")), saved, rtol=0, atol=0)

    plain = LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, str(adapter)).eval()(ids).logits
        four_bit_base = load_base(tiny_base, BaseSettings(bits=4))
        mask = torch.ones_like(ids, dtype=torch.bool)
        quantised_before = four_bit_base.project(four_bit_base(ids, mask))
        with bank.use("a", training=False) as vlm:
            quantised_after = vlm.project(vlm(ids, mask))
    moved, quantised_moved = after - before, quantised_after - quantised_before
    assert moved.abs().max() > 0.05
    # The adapter's effect is the same up to the noise of 4-bit weights.
    assert torch.corrcoef(torch.stack([moved.flatten(), quantised_moved.flatten()]))[0, 1] > 0.8
