"""State dictionaries come back as they were, without pickle."""

from __future__ import annotations

import math

import pytest
import torch

from llava_rlhf.runs.tensor_files import load_tree, save_tree


def test_every_kind_of_value_comes_back(tmp_path):
    shared = torch.arange(6.0)
    tree = {
        "none": None,
        0: {"tuple": (1, "two", [3.5, True]), "inf": math.inf, "third": 1 / 3, "huge": 2**70},
        "bytes": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "view": shared.view(2, 3).T,
        "same": [shared, shared],
        "empty": torch.empty(0, dtype=torch.bfloat16),
    }
    save_tree(tree, tmp_path / "tree.safetensors")
    found = load_tree(tmp_path / "tree.safetensors")
    assert list(found) == list(tree) and found[0] == tree[0] and found["none"] is None
    assert isinstance(found[0]["tuple"], tuple)
    for name in ("bytes", "scalar", "view", "empty"):
        assert found[name].dtype == tree[name].dtype and torch.equal(found[name], tree[name])
    assert torch.equal(found["same"][1], shared)


def test_an_optimizer_goes_on_bit_for_bit(tmp_path):
    def made():
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        return weight, torch.optim.AdamW([weight], lr=0.1)

    def step(weight, optimizer, number):
        weight.grad = torch.sin(number + weight.detach())
        optimizer.step()

    weight, optimizer = made()
    step(weight, optimizer, 1)
    save_tree({"optimizer": optimizer.state_dict(), "weight": weight}, tmp_path / "state.safetensors")
    step(weight, optimizer, 2)
    other, again = made()
    content = load_tree(tmp_path / "state.safetensors")
    again.load_state_dict(content["optimizer"])
    other.data = content["weight"]
    step(other, again, 2)
    assert torch.equal(other, weight)


def test_what_is_neither_tensor_nor_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="type set can't be written"):
        save_tree({"a": {1, 2}}, tmp_path / "tree.safetensors")
