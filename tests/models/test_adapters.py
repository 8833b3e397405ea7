"""The rules of the adapter bank: who may run, who trains, where LoRA and quantisation go."""

from __future__ import annotations

import json

import bitsandbytes as bnb
import pytest
import torch

from models.adapter_files import ADAPTER_CONFIG
from models.adapters import AdapterBank, AdapterSpec
from models.settings import LANGUAGE_MODEL_LINEAR_LAYERS, LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import BATCH, LORA, build_bank, run
from tests.models.tiny_rows import PIXELS, SHAPE

# --- contexts


def test_outside_a_context_the_model_refuses_to_run(shared_bank):
    with pytest.raises(RuntimeError, match="no adapter is in use"):
        shared_bank.vlm(BATCH.input_ids, BATCH.mask, shared_bank.vlm.encode_images(PIXELS, BATCH.image_index))
    with pytest.raises(RuntimeError, match="no adapter is in use"):
        shared_bank.vlm.model(input_ids=torch.tensor([[1, 20, 30]]))


def test_the_base_alone_is_the_base_before_it_had_adapters(tiny_base):
    bare = load_base(tiny_base, BaseSettings())
    asked = (BATCH.input_ids, BATCH.mask, bare.encode_images(PIXELS, BATCH.image_index))
    with torch.no_grad():
        expected = bare(*asked)
    bank = build_bank(tiny_base)
    policy = run(bank, "policy")
    with torch.no_grad(), bank.use_base() as vlm:
        torch.testing.assert_close(vlm(*asked), expected)
        with pytest.raises(RuntimeError, match="is in use"), bank.use("policy", False):
            pass
    assert not torch.allclose(policy, expected, atol=1e-3) and torch.equal(run(bank, "policy"), policy)


@pytest.mark.parametrize("inner", ["value", "policy"])
def test_contexts_do_not_nest(shared_bank, inner):
    expected = run(shared_bank, "policy")
    with shared_bank.use("policy", training=False) as vlm:
        with (
            pytest.raises(RuntimeError, match=rf"'policy' is in use; leave it before '{inner}'"),
            shared_bank.use(inner, False),
        ):
            pass
        assert shared_bank.active == "policy"
        with torch.no_grad():
            hidden = vlm(BATCH.input_ids, BATCH.mask, vlm.encode_images(PIXELS, BATCH.image_index))
    assert torch.equal(hidden, expected)


def test_an_unknown_adapter_is_named(shared_bank):
    with (
        pytest.raises(KeyError, match="no adapter 'critic' in this bank; it has policy, value, reference"),
        shared_bank.use("critic", False),
    ):
        pass
    assert shared_bank.active is None


def test_an_exception_ends_the_context(shared_bank):
    expected = run(shared_bank, "policy")
    with pytest.raises(ZeroDivisionError), shared_bank.use("value", training=True):
        raise ZeroDivisionError
    assert shared_bank.active is None
    with pytest.raises(RuntimeError, match="no adapter is in use"):
        shared_bank.vlm(BATCH.input_ids[1:2], BATCH.mask[1:2])
    assert torch.equal(run(shared_bank, "policy"), expected)


def test_mode_is_that_of_the_context(shared_bank):
    for training in (True, False, True):
        with shared_bank.use("policy", training) as vlm:
            assert vlm.model.training is training


def test_a_bank_needs_an_adapter(tiny_base):
    with pytest.raises(ValueError, match="at least one adapter"):
        AdapterBank(load_base(tiny_base, BaseSettings()), {})


# --- who trains


@pytest.mark.parametrize("checkpointing", [False, True])
def test_switching_never_changes_what_trains(tiny_base, checkpointing):
    bank = build_bank(tiny_base, checkpointing=checkpointing)

    def training():
        return {key for key, p in bank.vlm.model.named_parameters() if p.requires_grad}

    declared = set(bank.parameters_of("policy")) | set(bank.parameters_of("value"))
    assert len(declared) == 2 * 7 * SHAPE.layers * 2  # adapters × linear layers × blocks × (A, B)
    assert training() == declared
    for name, mode in (("reference", False), ("policy", True), ("value", True), ("reference", True)):
        with bank.use(name, mode):
            assert training() == declared
        run(bank, name)
        assert training() == declared


def test_a_bank_of_loaded_adapters_trains_as_declared(tiny_base, saved):
    specs = {"reference": AdapterSpec(saved, False), "policy": AdapterSpec(saved, True)}
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), specs)
    trained = {key for key, p in bank.vlm.model.named_parameters() if p.requires_grad}
    assert trained == set(bank.parameters_of("policy")) != set()


def test_names_that_occur_in_parameter_names_are_no_trouble(tiny_base):
    specs = {"model": AdapterSpec(LORA, False), "layers": AdapterSpec(LORA, True)}
    bank = AdapterBank(load_base(tiny_base, BaseSettings()), specs)
    model, layers = set(bank.parameters_of("model")), set(bank.parameters_of("layers"))
    assert len(model) == len(layers) == 7 * SHAPE.layers * 2
    assert not model & layers
    assert {key for key, p in bank.vlm.model.named_parameters() if p.requires_grad} == layers


# --- where LoRA and quantisation go


def test_lora_goes_into_the_language_model_only(shared_bank):
    lora = [key for key, _ in shared_bank.vlm.model.named_parameters() if "lora_" in key]
    assert lora
    assert all(key.startswith("model.language_model.layers.") for key in lora)
    wrapped = {key.split(".lora_")[0].rsplit(".", 1)[1] for key in lora}
    assert wrapped == set(LANGUAGE_MODEL_LINEAR_LAYERS)


def test_fewer_layers_can_be_chosen(tiny_base):
    specs = {"policy": AdapterSpec(LoraSettings(r=2, layers=("q_proj", "v_proj")), True)}
    names = build_bank(tiny_base, specs).parameters_of("policy")
    assert {key.split(".lora_")[0].rsplit(".", 1)[1] for key in names} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(("bits", "kind"), [(4, bnb.nn.Linear4bit), (8, bnb.nn.Linear8bitLt)])
def test_only_the_language_model_is_quantised(tiny_base, bits, kind):
    model = load_base(tiny_base, BaseSettings(bits=bits)).model
    quantised = [key for key, module in model.named_modules() if isinstance(module, kind)]
    assert len(quantised) == 7 * SHAPE.layers
    assert all(key.startswith("model.language_model.layers.") for key in quantised)
    full = dict(load_base(tiny_base, BaseSettings()).model.named_parameters())
    for key, parameter in model.named_parameters():
        if not key.startswith("model.language_model.layers."):
            assert torch.equal(parameter, full[key]), key


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.05), (4, 0.4)])
def test_quantised_bases_run_near_the_full_one_and_train(tiny_base, shared_bank, bits, tolerance):
    bank = build_bank(tiny_base, bits=bits)
    exact, found = run(shared_bank, "policy")[BATCH.mask], run(bank, "policy")[BATCH.mask]
    error = (found - exact).norm() / exact.norm()
    assert 1e-4 < error < tolerance
    with bank.use("policy", training=True) as vlm:
        features = vlm.encode_images(PIXELS, BATCH.image_index)
        vlm(BATCH.input_ids, BATCH.mask, features)[BATCH.mask].pow(2).mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in bank.parameters_of("policy").values())


def test_a_loaded_adapter_runs_without_the_dropout_it_was_trained_with(tiny_base, tmp_path):
    """What is sampled in eval mode is what an update in train mode sees."""
    new = AdapterSpec(LoraSettings(r=4, dropout=0.5), True)
    bank = build_bank(tiny_base, {"policy": new})
    assert not torch.equal(run(bank, "policy", training=True), run(bank, "policy"))
    bank.save("policy", tmp_path)
    assert json.loads((tmp_path / ADAPTER_CONFIG).read_text())["lora_dropout"] == 0.5
    loaded = AdapterBank(load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(tmp_path, True)})
    assert torch.equal(run(loaded, "policy", training=True), run(bank, "policy"))
