"""bfloat16 compute over an NF4 base with sdpa attention: training and sampling, on the CPU and on a GPU."""

from __future__ import annotations

import pytest
import torch

from models.adapters import AdapterBank, AdapterSpec
from models.generation import SamplingSettings
from models.heads import ScalarHead
from models.roles import Policy, ValueModel
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import randomise
from tests.models.tiny_rows import MIXED, PIXELS, last_columns, pad
from tests.support.tiny_models import IMAGE, PAD

LORA = LoraSettings(r=4, alpha=8.0)
BATCH = pad(MIXED)
RESPONSE = 3
SAMPLING = SamplingSettings(
    max_new_tokens=8, stop_ids=(20, 30), pad_id=PAD, temperature=1.0, banned_ids=(IMAGE,)
)
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
all_bits = pytest.mark.parametrize("bits", [16, 8, 4])


def build(base, bits, dtype, device):
    settings = BaseSettings(bits=bits, compute_dtype=dtype, attn_implementation="sdpa", device=device)
    specs = {"policy": AdapterSpec(LORA, True), "value": AdapterSpec(LORA, True)}
    bank = AdapterBank(load_base(base, settings), specs, gradient_checkpointing=True)
    randomise(bank, "policy", "value")
    return bank


def inputs(bank):
    device = bank.vlm.device
    features = bank.vlm.encode_images(PIXELS, BATCH.image_index)
    return BATCH.input_ids.to(device), BATCH.mask.to(device), features


def losses(bank, head):
    """Negative log-probability of the last tokens, and the mean square of their values."""
    ids, mask, features = inputs(bank)
    states = Policy(bank, "policy").response_states(
        ids, mask, features, last_columns(ids, RESPONSE), training=True
    )
    log_probs = bank.vlm.project(states).float().log_softmax(dim=-1)
    policy_loss = -log_probs.gather(-1, ids[:, -RESPONSE:].unsqueeze(-1)).mean()
    value_loss = (
        ValueModel(bank, "value", head)(ids, mask, features, last_columns(ids, RESPONSE), training=True)
        .pow(2)
        .mean()
    )
    return policy_loss, value_loss


def gradient(bank, name):
    return torch.cat([p.grad.float().flatten().cpu() for p in bank.parameters_of(name).values()])


def make_head(bank):
    torch.manual_seed(0)
    return ScalarHead(bank.vlm.hidden_size).to(bank.vlm.device)


@devices
@all_bits
def test_training_in_bfloat16_follows_float32(tiny_base, device, bits):
    """Same base, other arithmetic: losses and the direction of the gradients agree.

    Weights are rounded to bfloat16 before they are quantised, so a few NF4 codes differ: cosine 0.97 there, 0.99 else.
    """
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        bank = build(tiny_base, bits, dtype, device)
        head = make_head(bank)
        policy_loss, value_loss = losses(bank, head)
        (policy_loss + value_loss).backward()
        found[dtype] = (policy_loss, value_loss, gradient(bank, "policy"), gradient(bank, "value"))
    exact, rounded = found[torch.float32], found[torch.bfloat16]
    for one, other in zip(exact[:2], rounded[:2], strict=True):
        assert other.dtype == torch.float32
        assert 0 < abs(other.item() - one.item()) < 0.05 * abs(one.item())
    for one, other in zip(exact[2:], rounded[2:], strict=True):
        assert other.isfinite().all()
        assert torch.cosine_similarity(one, other, dim=0) > 0.95


@devices
@all_bits
def test_a_step_in_bfloat16_lowers_the_losses(tiny_base, device, bits):
    bank = build(tiny_base, bits, torch.bfloat16, device)
    head = make_head(bank)
    weights = [p for p in bank.parameters() if p.requires_grad]
    assert {p.dtype for p in weights} == {torch.float32}  # AdamW in bfloat16 would round small steps away
    optimizer = torch.optim.AdamW([*weights, *head.parameters()], lr=1e-3)
    history = []
    for _ in range(6):
        policy_loss, value_loss = losses(bank, head)
        (policy_loss + value_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append((policy_loss.item(), value_loss.item()))
    assert history[-1][0] < history[0][0]
    assert history[-1][1] < history[0][1]


@devices
@all_bits
def test_sampling_in_bfloat16(tiny_base, device, bits):
    bank = build(tiny_base, bits, torch.bfloat16, device)
    policy = Policy(bank, "policy")
    uniforms = torch.rand(len(MIXED), 8, generator=torch.Generator().manual_seed(0))
    found = policy.sample(*inputs(bank), SAMPLING, uniforms)
    again = policy.sample(*inputs(bank), SAMPLING, uniforms)
    assert torch.equal(found.ids, again.ids)
    assert found.ids.shape == found.mask.shape
    assert not (found.ids == IMAGE).any()
    assert (found.ids[~found.mask] == PAD).all()
    assert found.mask[:, 0].all()
    assert len({tuple(row) for row in found.ids.tolist()}) > 1
