"""What one PPO step computes: each image once for each base, and vocabulary logits of responses only, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.ppo_world import Assembled, assemble, record_experience
from tests.support.tiers import tiered
from tests.support.tiny_data import ppo_command

CHUNK = 3
PASSES = 2  # over the rollouts
ROWS = 4  # sampled and scored at once: 8 rollouts are 2 batches of them


class TablesOfVocabularyWidth(TorchDispatchMode):
    """Rows of every tensor with the vocabulary along one side that any operation makes; weights are not made."""

    def __init__(self, models: list[torch.nn.Module], width: int):
        super().__init__()
        weights = (weight for model in models for weight in model.parameters())
        self.weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self.width = width
        self.rows: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            wide = isinstance(tensor, Tensor) and self.width in tensor.shape
            if wide and tensor.untyped_storage().data_ptr() not in self.weights:
                self.rows.append(tensor.numel() // self.width)
        return result


@contextmanager
def sizes_of_inputs(module: torch.nn.Module, keyword: str, last_dims: int) -> Iterator[list[int]]:
    """The number of items (all but the last dimensions) of each call of a module."""
    sizes: list[int] = []

    def record(module, args, kwargs):
        tensor = args[0] if args else kwargs[keyword]
        sizes.append(tensor.shape[:-last_dims].numel())

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def one_step(parts: Assembled) -> None:
    batches = parts.trainer.stream.micro_batches(0, 1, ROWS)
    parts.trainer.train(iter([parts.batch(rows) for rows in batches]), 0)


@pytest.fixture(params=tiered(["one base", "two bases"], quick=["one base"]))
def parts(request, tiny_data, tiny_base, policy_run, reward_run, own_base_reward_run, tmp_path) -> Assembled:
    reward = reward_run if request.param == "one base" else own_base_reward_run
    settings = {
        "max_steps": 1,
        "noptepochs": PASSES,
        "logits_chunk_size": CHUNK,
        "step_per_device_batch_size": 2,
    }
    return assemble(ppo_command(tiny_data, tiny_base, policy_run, reward, tmp_path, **settings))


def test_the_vocabulary_projection_sees_sampled_and_response_tokens_only(parts, monkeypatch):
    """Not the prompts, not the padding, and nothing at all for value and reward."""
    seen = record_experience(monkeypatch)
    banks = {id(role.bank): role.bank for role in (parts.roles.policy, parts.roles.reward)}
    heads = [bank.vlm.model.lm_head for bank in banks.values()]
    with (
        sizes_of_inputs(heads[0], "input", 1) as projected,
        sizes_of_inputs(heads[-1], "input", 1) as of_reward,
    ):
        one_step(parts)
    lengths = seen[0].lengths
    tokens = int(lengths.sum())
    assert len(set(lengths.tolist())) > 1
    # Sampled; scored once each for policy and reference; once in every pass of the update.
    assert sum(projected) == tokens + 2 * tokens + PASSES * tokens
    assert max(projected) == max(ROWS, CHUNK) < tokens
    assert len(heads) == 1 or of_reward == []


def test_no_table_of_logits_is_larger_than_a_chunk(parts, monkeypatch):
    seen = record_experience(monkeypatch)
    bases = [role.bank.vlm for role in (parts.roles.policy, parts.roles.reward)]
    with TablesOfVocabularyWidth([vlm.model for vlm in bases], bases[0].vocab_size) as tables:
        one_step(parts)
    assert max(tables.rows) == max(ROWS, CHUNK) < int(seen[0].lengths.sum())


def test_each_image_is_encoded_once_a_step_and_base(parts):
    rows = parts.trainer.stream.rows(0)
    images = len({name for row in rows for name in parts.prepared.prompts[row].image_names})
    assert images < sum(len(parts.prepared.prompts[row].image_names) for row in rows), "none is shown twice"
    towers = {
        id(vlm): vlm.model.model.vision_tower
        for vlm in (parts.roles.policy.bank.vlm, parts.roles.reward.bank.vlm)
    }
    assert len(towers) == (1 if parts.roles.shared else 2)
    for tower in towers.values():
        with sizes_of_inputs(tower, "pixel_values", 3) as encoded:
            one_step(parts)
        assert sum(encoded) == images > 0
        assert len(encoded) <= 8 // ROWS, "at most one call for each batch of prompts"
