"""Heads: their numbers by hand, how they begin, and what of their files is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from llava_rlhf.runs.reward_card import REWARD_HEADS
from models.heads import LINEAR, MLP, MLPHead, ScalarHead, check_head_fits, head_shapes, new_head, read_head

KINDS = [LINEAR, MLP]


@pytest.fixture(params=KINDS)
def head(request):
    """One of each kind, of width 64, with biases that are not 0."""
    torch.manual_seed(2)
    head = new_head(request.param, 64)
    with torch.no_grad():
        for weight in head.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return head


def by_hand(head, state):
    """The head's number of one hidden state, number by number."""
    numbers = state.tolist()
    if isinstance(head, MLPHead):
        rows = zip(head.hidden.weight.tolist(), head.hidden.bias.tolist(), strict=True)
        sums = [math.fsum(w * h for w, h in zip(row, numbers, strict=True)) + c for row, c in rows]
        numbers, last = [x / (1 + math.exp(-x)) for x in sums], head.output
    else:
        last = head.linear
    return math.fsum(w * h for w, h in zip(last.weight[0].tolist(), numbers, strict=True)) + last.bias.item()


def test_a_head_of_two_layers_in_whole_numbers():
    head = MLPHead(2)
    with torch.no_grad():
        head.hidden.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, -1.0]]))
        head.hidden.bias.copy_(torch.tensor([0.0, 1.0]))
        head.output.weight.copy_(torch.tensor([[2.0, 10.0]]))
        head.output.bias.fill_(0.5)
    # h = (1, 2) → (1, 1 − 2 + 1) = (1, 0) → silu: (1 / (1 + e^−1), 0) = (.7310586, 0) → 2 · .7310586 + .5
    assert head(torch.tensor([[1.0, 2.0]])).tolist() == [pytest.approx(1.9621172)]


def test_a_head_in_float64_rounds_once(head):
    """What it says is the float32 that is nearest to the sum by hand, of one row or of several."""
    hidden = torch.randn(5, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(hidden, torch.float64)
    nearest = torch.tensor([by_hand(head, state) for state in hidden], dtype=torch.float64).float()
    assert found.dtype == torch.float32 and torch.equal(found, nearest)
    assert [head(state[None], torch.float64).item() for state in hidden] == found.tolist()


def test_a_head_computes_in_float32_under_autocast(head):
    hidden = torch.randn(5, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(hidden)
    assert found.dtype == torch.float32
    expected = torch.tensor([by_hand(head, state) for state in hidden.float()])
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_head_computes_in_float32_with_weights_of_bfloat16(head):
    hidden, half = torch.randn(5, 64), head.bfloat16()
    expected = torch.tensor([by_hand(half, state) for state in hidden])
    assert_close(half(hidden), expected, rtol=1e-5, atol=1e-6)


def test_a_reward_head_starts_at_the_published_width():
    torch.manual_seed(0)
    head = ScalarHead(4095)
    assert head.linear.bias.item() == 0
    # N(0, 1/4096): the standard deviation of 4095 draws is within 4 of its standard errors (1.1 % each).
    assert head.linear.weight.std().item() == pytest.approx(1 / 64, rel=0.045)


def test_both_layers_of_a_head_start_at_that_width():
    torch.manual_seed(0)
    head = MLPHead(1023)
    assert not head.hidden.bias.any() and not head.output.bias.any()
    assert head.hidden.weight.std().item() == pytest.approx(1 / 32, rel=0.003)
    assert head.output.weight.std().item() == pytest.approx(1 / 32, rel=0.09)


def test_the_kinds_are_those_of_the_flag():
    assert tuple(KINDS) == REWARD_HEADS
    assert [new_head(kind, 8).kind for kind in KINDS] == KINDS


# --- files


def test_a_head_survives_its_file_whichever_kind_it_is(head, tmp_path):
    head.save(tmp_path / "head.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "head.safetensors").items()}
    assert shapes == head_shapes(head.kind, 64)
    other = read_head(tmp_path / "head.safetensors", 64)
    hidden = torch.randn(3, 64)
    assert other.kind == head.kind and torch.equal(other(hidden), head(hidden))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_another_width_is_refused(kind, head, tmp_path):
    new_head(kind, 32).save(tmp_path / "head.safetensors")
    message = (
        "a head for hidden size 32, the model has 64" if kind == head.kind else "is not a head: it holds"
    )
    with pytest.raises(ValueError, match=message):
        head.load(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="a head for hidden size 32, the model has 64"):
        read_head(tmp_path / "head.safetensors", 64)


def test_a_file_that_is_no_head_is_refused(head, tmp_path):
    save_file({"lora_A": torch.zeros(2, 2)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="is not a head: it holds lora_A"):
        head.load(tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="is not a head: it holds lora_A, not weight and bias"):
        read_head(tmp_path / "head.safetensors", 64)


@pytest.mark.parametrize("card", KINDS)
def test_by_its_header_a_head_is_of_the_width_of_its_base_and_of_the_kind_of_its_card(
    card, head, tiny_base, tmp_path
):
    width = json.loads((tiny_base / "config.json").read_text())["text_config"]["hidden_size"]
    file = tmp_path / "head.safetensors"
    new_head(head.kind, width).save(file)
    if card == head.kind:
        check_head_fits(file, tiny_base, card)
        new_head(head.kind, width + 1).save(file)
        with pytest.raises(ValueError, match="it is no head, or was trained on another base"):
            check_head_fits(file, tiny_base, card)
    else:
        with pytest.raises(ValueError, match=f"a head of kind {head.kind}, where .* beside it says {card}"):
            check_head_fits(file, tiny_base, card)
