"""Gradients of several adapters in one total loss, against models that hold one adapter each and never switch.

The reference is a fresh base with one plain PEFT adapter, Hugging Face's own forward, no gradient checkpointing.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close

from models.adapters import AdapterBank, AdapterSpec
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_banks import randomise
from tests.models.tiny_rows import MIXED, PIXELS, SHAPE, pad
from tests.support.tiers import tiered

LORA = LoraSettings(r=4, alpha=8.0)
BATCH = pad(MIXED)
WEIGHTS = torch.randn(*BATCH.input_ids.shape, SHAPE.hidden, generator=torch.Generator().manual_seed(11))
# Both sides sum the same float32 products in another order; gradients here are of size 1.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
all_precisions = pytest.mark.parametrize("bits", tiered([16, 8, 4], quick=[16, 4]))
PLACES = ("outside", "inside value", "inside reference", "inside policy")
with_and_without_checkpointing = pytest.mark.parametrize("checkpointing", [False, True])


def loss_of(hidden):
    """A function of the hidden states at real tokens with gradients of size 1."""
    return torch.tanh(hidden * WEIGHTS)[BATCH.mask].sum(dim=-1).mean()


def build_bank(base, bits=16, checkpointing=False, dropout=0.0):
    vlm = load_base(base, BaseSettings(bits=bits))
    lora = LoraSettings(r=LORA.r, alpha=LORA.alpha, dropout=dropout)
    trained = {"policy": True, "value": True, "reference": False}
    bank = AdapterBank(vlm, {n: AdapterSpec(lora, train) for n, train in trained.items()}, checkpointing)
    randomise(bank, *bank.names)
    return bank


def loss_now(vlm):
    """Under the adapter that is active."""
    return loss_of(vlm(BATCH.input_ids, BATCH.mask, vlm.encode_images(PIXELS, BATCH.image_index)))


def forward(bank, name, training=True):
    with bank.use(name, training) as vlm:
        return loss_now(vlm)


def evaluated(bank, name):
    with torch.no_grad():
        return forward(bank, name, training=False)


def gradients(bank, name):
    return {key.replace(f".{name}.", ".default."): p.grad for key, p in bank.parameters_of(name).items()}


def assert_all_close(found, expected):
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        assert found[key] is not None, f"{key} has no gradient"
        assert_close(found[key], gradient, **CLOSE, msg=lambda text, key=key: f"{key}: {text}")


@pytest.fixture(scope="module")
def expected(tiny_base, tmp_path_factory):
    """bits → adapter → parameter name → gradient, from single-adapter models."""
    folder = tmp_path_factory.mktemp("adapters")
    bank = build_bank(tiny_base)
    found = {}
    for bits in (16, 8, 4):
        for name in ("policy", "value"):
            bank.save(name, folder / name)
            base = load_base(tiny_base, BaseSettings(bits=bits)).model
            single = PeftModel.from_pretrained(base, folder / name, is_trainable=True).train()
            output = single(
                input_ids=BATCH.input_ids,
                pixel_values=PIXELS[BATCH.image_index],
                attention_mask=BATCH.mask.long(),
                output_hidden_states=True,
            )
            loss_of(output.hidden_states[-1]).backward()
            found[bits, name] = {
                key: p.grad for key, p in single.base_model.model.named_parameters() if p.requires_grad
            }
            assert max(g.abs().max() for g in found[bits, name].values()) > 0.01
    return found


@all_precisions
@with_and_without_checkpointing
@pytest.mark.parametrize("place", tiered(PLACES, quick=["outside", "inside value"]))
def test_gradients_of_one_total_loss(tiny_base, expected, bits, checkpointing, place):
    bank = build_bank(tiny_base, bits, checkpointing)
    total = forward(bank, "policy") + forward(bank, "value")
    with torch.no_grad():
        forward(bank, "reference", training=False)
    with ExitStack() as stack:
        if place != "outside":
            stack.enter_context(bank.use(place.split()[1], training=False))
        total.backward()
    assert_all_close(gradients(bank, "policy"), expected[bits, "policy"])
    assert_all_close(gradients(bank, "value"), expected[bits, "value"])
    assert all(p.grad is None for p in bank.parameters_of("reference").values())


@all_precisions
@with_and_without_checkpointing
def test_both_modes_compute_alike(tiny_base, bits, checkpointing):
    """Bit by bit, in any order: what is sampled is what is trained, and the first ratio is 1."""
    bank = build_bank(tiny_base, bits, checkpointing)
    with torch.no_grad():
        losses = [forward(bank, "policy", training) for training in (True, False, True)]
    losses.append(forward(bank, "policy", training=True).detach())
    assert len(set(torch.stack(losses).tolist())) == 1


@with_and_without_checkpointing
def test_a_backward_inside_a_context_leaves_its_adapter_active(tiny_base, checkpointing):
    bank = build_bank(tiny_base, checkpointing=checkpointing)
    value_before = evaluated(bank, "value")
    loss = forward(bank, "policy")
    with bank.use("value", training=False) as vlm:
        loss.backward()
        with torch.no_grad():
            value_after = loss_now(vlm)
    assert torch.equal(value_after, value_before)


def test_a_failing_backward_leaves_the_active_adapter_in_place(tiny_base):
    bank = build_bank(tiny_base, checkpointing=True)
    value_before = evaluated(bank, "value")
    loss = forward(bank, "policy")

    def fail(module, args):
        raise MemoryError("out of memory during recomputation")

    layer = bank.vlm.model.model.language_model.layers[0].mlp
    with bank.use("value", training=False) as vlm:
        hook = layer.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            loss.backward()
        hook.remove()
        with torch.no_grad():
            value_after = loss_now(vlm)
    assert torch.equal(value_after, value_before)


def test_a_graph_can_be_walked_twice(tiny_base):
    """Gradients of two losses that share a checkpointed forward, as `torch.autograd.grad` takes them."""
    bank = build_bank(tiny_base, checkpointing=True)
    weights = list(bank.parameters_of("policy").values())
    loss = forward(bank, "policy")
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    second = torch.autograd.grad(loss, weights)
    for one, two in zip(first, second, strict=True):
        assert_close(one, two)


def test_recomputation_repeats_the_dropout_of_the_forward(tiny_base):
    """Also when the model has been put to eval mode in between by another role."""
    found = []
    for checkpointing in (False, True):
        bank = build_bank(tiny_base, checkpointing=checkpointing, dropout=0.3)
        torch.manual_seed(5)
        loss = forward(bank, "policy")
        with bank.use("reference", training=False) as vlm:
            loss.backward()
            assert not vlm.model.training
        found.append(gradients(bank, "policy"))
    assert_all_close(found[1], found[0])


@all_precisions
@with_and_without_checkpointing
def test_only_trained_adapters_change(tiny_base, bits, checkpointing):
    bank = build_bank(tiny_base, bits, checkpointing)

    def bytes_of_everything():
        named = [*bank.vlm.model.named_parameters(), *bank.vlm.model.named_buffers()]
        return {key: tensor.detach().clone().view(torch.uint8) for key, tensor in named if tensor.dim()}

    before = bytes_of_everything()
    optimizer = torch.optim.AdamW(
        [p for p in bank.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1
    )
    for _ in range(2):
        loss = forward(bank, "policy") + forward(bank, "value")
        with torch.no_grad():
            forward(bank, "reference", training=False)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = bytes_of_everything()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == set(bank.parameters_of("policy")) | set(bank.parameters_of("value"))
    assert len(before) > len(changed)
