"""Weights that DeepSpeed divides: seen, and never written while they are empty (several processes: tests/distributed)."""

from __future__ import annotations

import pytest
import torch

from models.divided_weights import check_whole, is_divided, whole
from models.heads import ScalarHead


def test_weights_that_nobody_divides_are_as_ever(tmp_path):
    head = ScalarHead(4)
    assert not is_divided(head)
    with whole(head.parameters(), written=True):
        head.linear.bias.data.fill_(2.0)
    check_whole(head.parameters())
    head.save(tmp_path / "head.safetensors")
    assert head.linear.bias.item() == 2.0


def test_an_empty_part_is_not_written(tmp_path):
    head = ScalarHead(4)
    weight = head.linear.weight
    weight.ds_id, weight.ds_numel, weight.data = 0, weight.numel(), torch.empty(0)
    assert is_divided(head)
    with pytest.raises(RuntimeError, match="all of them must enter `whole`"):
        head.save(tmp_path / "head.safetensors")
    assert not (tmp_path / "head.safetensors").exists()
