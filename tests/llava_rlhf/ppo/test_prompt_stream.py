"""Which prompts belong to which step: functions of seed and step, the same for any number of processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llava_rlhf.ppo.prompt_stream import PromptStream

ONE = PromptStream(n_prompts=35, rollout_batch_size=16, rank=0, world_size=1, seed=5)
STEP_BATCH = 8


def split(world_size):
    return [replace(ONE, rank=rank, world_size=world_size) for rank in range(world_size)]


def in_global_order(streams, per_rank):
    """Put lists of all ranks together by their global positions."""
    merged = {}
    for stream, values in zip(streams, per_rank, strict=True):
        merged |= dict(zip(stream.positions(), values, strict=True))
    return [merged[position] for position in range(len(merged))]


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_any_number_of_processes_sees_the_same_rows(world_size, step):
    streams = split(world_size)
    assert in_global_order(streams, [stream.rows(step) for stream in streams]) == ONE.rows(step)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_makes_the_same_optimizer_batches(world_size):
    for epoch in range(2):
        # Local rollout number → global position; compare the sets of positions in each optimizer step.
        expected = [set(batch) for batch in ONE.optimizer_batches(1, epoch, STEP_BATCH)]
        found = [set() for _ in expected]
        for stream in split(world_size):
            positions = stream.positions()
            batches = stream.optimizer_batches(1, epoch, STEP_BATCH)
            assert all(len(batch) == STEP_BATCH // world_size for batch in batches)
            for merged, batch in zip(found, batches, strict=True):
                merged |= {positions[row] for row in batch}
        assert found == expected


@pytest.mark.parametrize("samples", [2, 4, 16])
def test_answers_to_one_prompt_stand_together_for_any_number_of_processes(samples):
    grouped = replace(ONE, samples_per_prompt=samples)
    assert grouped.steps_per_epoch == 35 // (16 // samples)
    rows = grouped.rows(1)
    groups = [set(rows[start : start + samples]) for start in range(0, 16, samples)]
    assert all(len(group) == 1 for group in groups) and len(set(rows)) == 16 // samples
    for world_size in (2, 4):
        streams = [replace(grouped, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert in_global_order(streams, [stream.rows(1) for stream in streams]) == rows
    whole = [row for step in range(grouped.steps_per_epoch) for row in grouped.rows(step)]
    assert len(set(whole)) == len(whole) // samples, "a prompt comes once an epoch"
    assert not torch.equal(*grouped.uniforms(1, 8)[:2]), "answers to one prompt would all be the same"


def test_an_epoch_takes_each_prompt_at_most_once_and_leaves_out_the_rest():
    rows = ONE.rows(0) + ONE.rows(1)  # 35 prompts are two batches of 16
    assert len(set(rows)) == 32 and set(rows) <= set(range(35))


def test_epochs_differ_and_seeds_differ():
    assert ONE.rows(0) != ONE.rows(2)  # step 2 opens the second epoch
    assert ONE.rows(0) != replace(ONE, seed=6).rows(0)
    assert sorted(ONE.rows(0)) != sorted(ONE.rows(2))


def test_each_pass_takes_every_rollout_once_in_another_order():
    passes = [ONE.optimizer_batches(3, epoch, 4) for epoch in range(2)]
    for batches in passes:
        assert [len(batch) for batch in batches] == [4, 4, 4, 4]
        assert sorted(row for batch in batches for row in batch) == list(range(16))
    assert passes[0] != passes[1]
    assert passes[0] != ONE.optimizer_batches(4, 0, 4)


def test_sampling_numbers_belong_to_a_position_whoever_holds_it():
    alone = ONE.uniforms(2, 5)
    assert alone.shape == (16, 5) and bool((alone >= 0).all()) and bool((alone < 1).all())
    streams = split(4)
    spread = in_global_order(streams, [stream.uniforms(2, 5) for stream in streams])
    assert torch.equal(torch.stack(spread), alone)
    assert len(alone.unique()) == alone.numel()
    assert not torch.equal(alone, ONE.uniforms(3, 5))
    # A longer response_len adds draws, it does not change the earlier ones.
    assert torch.equal(ONE.uniforms(2, 9)[:, :5], alone)


def test_a_run_continued_at_a_step_gets_the_same_passes():
    whole = list(ONE.micro_batches(0, 5, 4))
    assert [len(batch) for batch in whole] == [4] * 20
    assert list(ONE.micro_batches(3, 5, 4)) == whole[12:]
    assert [row for batch in whole[4:8] for row in batch] == ONE.rows(1)
