"""One step of each program on a GPU, in bfloat16 and on a 4-bit NF4 base, and sampling there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from models.generation import SamplingSettings, sample
from models.vlm import BaseSettings, load_base
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command, write_tiny_data
from tests.support.tiny_models import IMAGE, PAD, STOP

pytestmark = pytest.mark.gpu

BF16 = {"bf16": True, "attn_implementation": "sdpa", "gradient_checkpointing": True}
LAYOUTS = {
    "bf16": BF16,
    "nf4": {**BF16, "bits": 4, "optim": "paged_adamw_32bit"},
    "fp32": {"attn_implementation": "sdpa", "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("gpu") / "data")


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_step_of_each_program(layout, data, tiny_base, tmp_path):
    common = {"use_cpu": False, "max_steps": 1, **LAYOUTS[layout]}
    reward, policy, ppo = (tmp_path / name for name in ("reward", "policy", "ppo"))
    train_reward_model.run(train_reward_model.prepare(reward_command(data, tiny_base, reward, **common)))
    initialize_policy_model.run(
        initialize_policy_model.prepare(policy_command(data, tiny_base, policy, **common))
    )
    argv = ppo_command(data, tiny_base, policy, reward, ppo, **common, response_len=10)
    train_rl_model.run(train_rl_model.prepare(argv))
    for folder in (reward, policy, ppo):
        assert all(math.isfinite(value) for value in metrics(folder).values())
    assert metrics(reward)["grad_norm"] > 0 < metrics(policy)["grad_norm"]
    first = metrics(ppo)
    assert first["objective/kl_sum_seq"] == 0.0  # policy and reference are copies of one adapter
    assert first["ppo/loss/grad_norm_policy"] > 0 < first["ppo/loss/grad_norm_value"]
    before, after = (load_file(folder / "lora_policy/adapter_model.safetensors") for folder in (policy, ppo))
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert len((ppo / "rollouts/000001.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_equals_the_cpu(tiny_base, temperature):
    """In float32 the same uniform numbers draw the same tokens on both devices."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 80, (6, 9), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :4] = False
    uniforms = torch.rand(6, 16, generator=generator)
    settings = SamplingSettings(16, (STOP,), PAD, temperature, (IMAGE,))
    answers = {}
    for device in ("cpu", "cuda"):
        base = load_base(tiny_base, BaseSettings(device=device))
        drawn = sample(base, ids.to(device), mask.to(device), None, settings, uniforms.to(device))
        answers[device] = [part.cpu() for part in drawn]
    assert_close(answers["cuda"], answers["cpu"], rtol=0, atol=0)
    assert not bool((answers["cuda"][0] == IMAGE).any())


def test_hidden_states_equal_the_cpu(tiny_base):
    ids = torch.randint(5, 80, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 8:] = False
    hidden = {}
    for name, settings in {
        "cpu": BaseSettings(),
        "cuda": BaseSettings(device="cuda"),
        "bf16": BaseSettings(device="cuda", compute_dtype=torch.bfloat16),
    }.items():
        base = load_base(tiny_base, settings)
        with torch.no_grad():
            hidden[name] = base(ids.to(base.device), mask.to(base.device)).float().cpu()[mask]
    # Other kernels, other order of sums; float32 without TF32.
    assert_close(hidden["cuda"], hidden["cpu"], rtol=1e-4, atol=1e-4)
    assert (hidden["bf16"] - hidden["cpu"]).abs().mean() < 0.03  # bfloat16 carries 8 bits
