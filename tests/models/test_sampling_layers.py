"""Layers that stand in for LoRA while a policy is sampled: they compute the same, and leave no trace."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch.testing import assert_close

from models.adapters import AdapterBank, AdapterSpec
from models.generation import SamplingSettings, sample
from models.roles import Policy
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import BATCH, LORA, build_bank, randomise, run
from tests.models.tiny_rows import PIXELS, SHAPE
from tests.support.tiers import tiered
from tests.support.tiny_models import IMAGE, PAD

NEW_TOKENS = 16
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order, of hidden states of size 1
merging_or_not = pytest.mark.parametrize("merge", [True, False], ids=["merged", "beside"])
all_bits = pytest.mark.parametrize("bits", tiered([16, 8, 4], quick=[16, 4]))


def hidden_while_sampling(bank, name, merge):
    with bank.use_for_sampling(name, merge) as vlm:
        return vlm(BATCH.input_ids, BATCH.mask, vlm.encode_images(PIXELS, BATCH.image_index))


def everything(bank):
    """Every tensor of a bank by its name: where it lies, and a copy of its bytes."""
    named = [*bank.named_parameters(), *bank.named_buffers()]
    return {key: (t.data_ptr(), t.dtype, t.detach().clone().flatten().view(torch.uint8)) for key, t in named}


def assert_untouched(bank, before, modules):
    after = everything(bank)
    assert after.keys() == before.keys()
    for key, (address, dtype, content) in before.items():
        assert after[key][:2] == (address, dtype) and torch.equal(after[key][2], content), key
    now = list(bank.named_modules())
    assert [name for name, _ in now] == [name for name, _ in modules]
    assert all(one is other for (_, one), (_, other) in zip(now, modules, strict=True))


def loss(bank, name):
    with bank.use(name, training=True) as vlm:
        hidden = vlm(BATCH.input_ids, BATCH.mask, vlm.encode_images(PIXELS, BATCH.image_index))
    return torch.tanh(hidden)[BATCH.mask].sum(dim=-1).mean()


def gradients(bank, name):
    bank.zero_grad()
    loss(bank, name).backward()
    return {key: p.grad.clone() for key, p in bank.parameters_of(name).items()}


# --- what is computed


@all_bits
@merging_or_not
@pytest.mark.parametrize("name", tiered(["policy", "reference"], quick=["policy"]))
def test_hidden_states_are_those_of_peft(tiny_base, bits, merge, name):
    bank = build_bank(tiny_base, bits=bits)
    expected = run(bank, name)
    found = hidden_while_sampling(bank, name, merge)
    assert not found.requires_grad
    assert_close(found[BATCH.mask], expected[BATCH.mask], **CLOSE)
    others = {"policy", "value", "reference"} - {name}
    assert all((run(bank, other) - found)[BATCH.mask].abs().max() > 0.1 for other in others)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bits", [16, 4])
def test_tokens_are_those_of_peft(tiny_base, bits, temperature):
    bank = build_bank(tiny_base, bits=bits)
    chosen = SamplingSettings(NEW_TOKENS, (20, 30), PAD, temperature, (IMAGE,))
    uniforms = torch.rand(len(BATCH.mask), NEW_TOKENS, generator=torch.Generator().manual_seed(3))
    features = bank.vlm.encode_images(PIXELS, BATCH.image_index)
    with bank.use("policy", training=False) as vlm:
        expected = sample(vlm, BATCH.input_ids, BATCH.mask, features, chosen, uniforms)
    for merge in (True, False):
        policy = Policy(bank, "policy")
        found = policy.sample(BATCH.input_ids, BATCH.mask, features, chosen, uniforms, merge)
        assert torch.equal(found.ids, expected.ids) and torch.equal(found.mask, expected.mask)


@pytest.mark.parametrize("bits", [16, 4])
def test_quantised_weights_are_not_merged(tiny_base, bits):
    bank = build_bank(tiny_base, bits=bits)
    path = "model.language_model.layers.1.mlp.down_proj"
    layer = bank.vlm.model.get_submodule(path)
    down, up = (part["policy"].weight.double() for part in (layer.lora_A, layer.lora_B))
    expected = layer.base_layer.weight.double() + LORA.alpha / LORA.r * up @ down if bits == 16 else None
    with bank.use_for_sampling("policy") as vlm:
        weights = [m.weight for m in vlm.model.modules() if type(m).__name__ == "_Merged"]
        assert len(weights) == (7 * SHAPE.layers if bits == 16 else 0)
        assert not any(isinstance(m, LoraLayer) for m in vlm.model.modules())
        if bits == 16:
            merged = vlm.model.get_submodule(path).weight
            assert_close(merged.double(), expected, rtol=0, atol=1e-6)
            assert (merged - layer.base_layer.weight).abs().max() > 0.1


@merging_or_not
def test_in_bfloat16_they_are_as_near_to_float32_as_peft(tiny_base, merge):
    exact, rounded = (
        AdapterBank(
            load_base(tiny_base, BaseSettings(compute_dtype=dtype)), {"policy": AdapterSpec(LORA, True)}
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    for bank in (exact, rounded):
        randomise(bank, "policy")
    exact.vlm.model.load_state_dict(rounded.vlm.model.state_dict())  # the weights are rounded in both
    expected, theirs = run(exact, "policy")[BATCH.mask], run(rounded, "policy")[BATCH.mask].float()
    ours = hidden_while_sampling(rounded, "policy", merge)
    assert ours.dtype == torch.bfloat16
    error = (ours[BATCH.mask].float() - expected).norm()
    assert 0 < error < 1.5 * (theirs - expected).norm() < 0.05 * expected.norm()
    if merge:  # summed in float32, rounded once
        path = "model.language_model.layers.0.mlp.up_proj"
        layer = rounded.vlm.model.get_submodule(path)
        wanted = layer.base_layer.weight.double() + layer.get_delta_weight("policy").double()
        with rounded.use_for_sampling("policy") as vlm:
            found = vlm.model.get_submodule(path).weight
        assert (found == wanted.bfloat16()).float().mean() > 0.999


# --- what stays


@all_bits
@merging_or_not
def test_bytes_and_modules_are_as_before(tiny_base, bits, merge):
    bank = build_bank(tiny_base, bits=bits, checkpointing=True)
    run(bank, "policy")  # 8-bit layers fill their state at the first forward
    before, modules = everything(bank), list(bank.named_modules())
    hidden_while_sampling(bank, "policy", merge)
    assert_untouched(bank, before, modules)
    with pytest.raises(ZeroDivisionError), bank.use_for_sampling("policy", merge):
        raise ZeroDivisionError
    assert bank.active is None
    assert_untouched(bank, before, modules)


def test_running_out_of_memory_while_merging_leaves_nothing_behind(tiny_base, monkeypatch):
    bank = build_bank(tiny_base)
    before, modules, expected = everything(bank), list(bank.named_modules()), run(bank, "policy")
    addmm, calls = torch.addmm, []

    def fail_at_the_fifth(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError
        return addmm(*arguments, **keywords)

    monkeypatch.setattr(torch, "addmm", fail_at_the_fifth)
    with pytest.raises(MemoryError), bank.use_for_sampling("policy"):
        pass
    assert bank.active is None and len(calls) == 5
    assert_untouched(bank, before, modules)
    assert torch.equal(run(bank, "policy"), expected)


@all_bits
@merging_or_not
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_goes_on_as_if_nothing_had_been_sampled(tiny_base, bits, merge, checkpointing):
    """Both trained roles, bit by bit, with a forward on either side of the sampling and its backward behind it."""
    bank, undisturbed = (build_bank(tiny_base, bits=bits, checkpointing=checkpointing) for _ in range(2))
    open_loss, expected_loss = loss(bank, "value"), loss(undisturbed, "value")
    hidden_while_sampling(bank, "policy", merge)
    assert torch.equal(open_loss, expected_loss)
    for one in (open_loss, expected_loss):
        one.backward()
    for key, expected in undisturbed.parameters_of("value").items():
        assert torch.equal(bank.parameters_of("value")[key].grad, expected.grad), key
    for name in ("policy", "value"):
        assert torch.equal(run(bank, name), run(undisturbed, name))
        found = gradients(bank, name)
        for key, expected in gradients(undisturbed, name).items():
            assert torch.equal(found[key], expected) and expected.any(), key
    assert {key for key, p in bank.named_parameters() if p.requires_grad} == {
        key for key, p in undisturbed.named_parameters() if p.requires_grad
    }


def test_a_later_update_is_sampled_from(tiny_base):
    bank = build_bank(tiny_base)
    first = hidden_while_sampling(bank, "policy", True)
    with torch.no_grad():
        for weight in bank.parameters_of("policy").values():
            weight += 0.1
    second = hidden_while_sampling(bank, "policy", True)
    assert (first - second).abs().max() > 0.1
    assert_close(second[BATCH.mask], run(bank, "policy")[BATCH.mask], **CLOSE)


# --- the rules of the bank


def test_rules_of_contexts_hold(shared_bank):
    modules = list(shared_bank.named_modules())
    with pytest.raises(KeyError, match="no adapter 'critic'"), shared_bank.use_for_sampling("critic"):
        pass
    assert shared_bank.active is None
    with shared_bank.use("value", training=False):
        with pytest.raises(RuntimeError, match="'value' is in use"), shared_bank.use_for_sampling("policy"):
            pass
        assert shared_bank.active == "value"
    with shared_bank.use_for_sampling("policy") as vlm:
        assert shared_bank.active == "policy" and not vlm.model.training
        for entered in (shared_bank.use("value", False), shared_bank.use_for_sampling("policy")):
            with pytest.raises(RuntimeError, match="'policy' is in use"), entered:
                pass
        assert not any(isinstance(m, LoraLayer) for m in vlm.model.modules())
    assert [m for _, m in shared_bank.named_modules()] == [m for _, m in modules]


@merging_or_not
def test_an_adapter_of_fewer_layers(tiny_base, merge):
    specs = {
        "wide": AdapterSpec(LORA, True),
        "narrow": AdapterSpec(LoraSettings(r=4, layers=("q_proj", "v_proj")), True),
    }
    bank = build_bank(tiny_base, specs)
    for name in bank.names:
        found = hidden_while_sampling(bank, name, merge)
        assert_close(found[BATCH.mask], run(bank, name)[BATCH.mask], **CLOSE)


@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # PEFT: no bias in the base, which matters to its own merging
@merging_or_not
@pytest.mark.parametrize("variant", [{"use_dora": True}, {"lora_bias": True}], ids=["DoRA", "bias"])
def test_other_kinds_of_lora_are_left_to_peft(tiny_base, tmp_path, merge, variant):
    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|down_proj)", **variant)
    peft_model = PeftModel(load_base(tiny_base, BaseSettings()).model, config)
    with torch.no_grad():
        for key, weight in peft_model.named_parameters():
            if "lora_" in key:
                weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(key)))
    peft_model.save_pretrained(tmp_path)
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(tmp_path, False)})
    expected = run(bank, "policy")
    assert torch.equal(hidden_while_sampling(bank, "policy", merge), expected)
    plain = load_base(tiny_base, BaseSettings())
    assert (run_base(plain) - expected).abs().max() > 0.1


def run_base(vlm):
    with torch.no_grad():
        return vlm(BATCH.input_ids, BATCH.mask, vlm.encode_images(PIXELS, BATCH.image_index))
