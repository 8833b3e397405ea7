"""Groups of rows, what happens when one does not fit, and that no number depends on the grouping."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_rlhf.ppo.gradients import Gradients
from llava_rlhf.ppo.micro_batches import MicroBatches, micro_batches, split_into
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.ppo_settings import ANOTHER_LOSS
from tests.support.ppo_world import assemble, largest_difference, metrics_of, run_ppo, trained
from tests.support.tiny_data import ppo_command


def test_groups_by_hand():
    # Sorted: 9 (row 1), 5 (rows 0, 3), 2 (row 2), 1 (row 4).
    lengths = [5, 9, 2, 5, 1]
    assert micro_batches(lengths, max_rows=2, max_tokens=0) == [[1, 0], [3, 2], [4]]
    assert micro_batches(lengths, max_rows=9, max_tokens=10) == [[1], [0, 3], [2, 4]]
    assert micro_batches(lengths, max_rows=9, max_tokens=1) == [[1], [0], [3], [2], [4]]
    assert micro_batches([], 4, 10) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 6), st.integers(0, 120))
def test_every_row_stands_in_one_group_within_the_limits(lengths, max_rows, max_tokens):
    groups = micro_batches(lengths, max_rows, max_tokens)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert len(group) <= max_rows
        assert len(group) == 1 or not max_tokens or len(group) * longest <= max_tokens
    in_order = [lengths[row] for group in groups for row in group]
    assert in_order == sorted(lengths, reverse=True)


def test_groups_are_split_to_a_number():
    assert split_into([[1, 2, 3], [4]], 3) == [[1, 2], [3], [4]]
    assert split_into([[1], [2]], 2) == [[1], [2]]
    with pytest.raises(ValueError, match="2 rows can't make 3 groups"):
        split_into([[1, 2]], 3)


def test_a_group_that_does_not_fit_is_tried_again_in_smaller_ones(caplog):
    done, tried = [], []

    def work(rows):
        tried.append(list(rows))
        if len(rows) * lengths[rows[0]] > 12:
            raise torch.OutOfMemoryError
        done.extend(rows)

    lengths = [4, 4, 4, 4, 3, 3]
    batches = MicroBatches(max_rows=6)
    with caplog.at_level(logging.WARNING):
        batches.run(lengths, work)
    # 6 rows of 4 do not fit; at most 12 tokens from then on.
    assert tried == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [3, 4, 5]]
    assert done == [0, 1, 2, 3, 4, 5] and batches.max_tokens == 12
    assert len(caplog.records) == 1 and "at most 12 tokens" in caplog.text
    tried.clear()
    batches.run(lengths, work)  # remembered
    assert tried == [[0, 1, 2], [3, 4, 5]] and len(caplog.records) == 1


def test_a_single_row_that_does_not_fit_is_an_error():
    def never(rows):
        raise torch.OutOfMemoryError("too long")

    with pytest.raises(torch.OutOfMemoryError, match="too long"):
        MicroBatches(max_rows=4).run([5, 5], never)


@pytest.fixture
def command(tiny_data, tiny_base, policy_run, own_base_reward_run, tmp_path):
    """Two bases, answers of different lengths."""

    def build(name, **changes):
        settings = {"noptepochs": 2, "max_steps": 1, "step_batch_size": 8, "max_grad_norm": 1e9, **changes}
        return ppo_command(tiny_data, tiny_base, policy_run, own_base_reward_run, tmp_path / name, **settings)

    return build


GROUPINGS = {
    "all at once": {"rollout_per_device_batch_size": 8, "step_per_device_batch_size": 8},
    "row by row": {
        "rollout_per_device_batch_size": 1,
        "step_per_device_batch_size": 1,
        "reward_model_per_device_batch_size": 1,
    },
    "3 rows": {"step_per_device_batch_size": 3, "reward_model_per_device_batch_size": 3},
    "60 tokens": {"tokens_per_micro_batch": 60, "step_per_device_batch_size": 8},
    "100 tokens": {"tokens_per_micro_batch": 100, "step_per_device_batch_size": 8},
}


VARIANTS = {
    "corrected": {},
    "published": {"numerics": "published"},
    "rewards by sentence": {"reward_placement": "sentence", "temperature": 2.0, "response_len": 24},
    "another loss": {**ANOTHER_LOSS, "response_len": 4},
    "a critic that sees facts": {"value_sees_facts": True},
    "groups": {"advantage_estimator": "grpo", "samples_per_prompt": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_number_depends_on_the_grouping(command, tmp_path, variant):
    for name, settings in GROUPINGS.items():
        run_ppo(command(name, **VARIANTS[variant], **settings))
    plain = tmp_path / "all at once"
    lengths = {line["length"] for line in _rollouts(plain)}
    assert len(lengths) > 1
    for name in GROUPINGS:
        for one, other in zip(metrics_of(tmp_path / name), metrics_of(plain), strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5), name
        assert _rollouts(tmp_path / name, "response") == _rollouts(plain, "response"), name
        # Two steps of Adam at 1e-3, which divides a gradient by its own size, last digits included.
        assert largest_difference(trained(tmp_path / name), trained(plain)) < 5e-5, name


def _rollouts(folder, field=None):
    lines = read_json_lines(folder / "rollouts" / "000001.jsonl")
    return lines if field is None else [line[field] for line in lines]


def test_running_out_of_memory_in_an_update_changes_no_number(command, tmp_path, monkeypatch):
    """A backward pass over more than 2 rows fails half way, when the policy's gradients are made but not added."""
    run_ppo(command("plain", step_per_device_batch_size=8))
    of, refused = Gradients.of, []

    def failing(self, role, loss):
        gradients = of(self, role, loss)
        if role == "value" and not refused:
            refused.append(role)
            raise torch.OutOfMemoryError
        return gradients

    monkeypatch.setattr(Gradients, "of", failing)
    run_ppo(command("short of memory", step_per_device_batch_size=8))
    assert refused
    assert largest_difference(trained(tmp_path / "short of memory"), trained(tmp_path / "plain")) < 1e-5
    for one, other in zip(
        metrics_of(tmp_path / "short of memory"), metrics_of(tmp_path / "plain"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_prompts_of_a_step_are_sampled_in_order_of_length_and_keep_their_places(command):
    parts = assemble(command("run", rollout_per_device_batch_size=2))
    stream = parts.trainer.stream
    order = stream.sampling_order(0)
    rows = stream.rows(0)
    lengths = [len(parts.prepared.prompts[rows[index]].query_ids) for index in order]
    assert lengths == sorted(lengths) and len(set(lengths)) > 1 and order != sorted(order)
    batches = [parts.batch(rows) for rows in stream.micro_batches(0, 1, 2)]
    uniforms = stream.uniforms(0, parts.trainer.response_len)
    sorted_ = parts.trainer.collector.collect(batches, uniforms, order)
    plain = parts.trainer.collector.collect([parts.batch(rows)], uniforms)
    assert [item.row for item in sorted_.items] == [item.row for item in plain.items]
    width = min(sorted_.responses.shape[1], plain.responses.shape[1])
    assert torch.equal(sorted_.responses[:, :width], plain.responses[:, :width])
    for name in ("log_probs", "values"):
        torch.testing.assert_close(getattr(sorted_, name), getattr(plain, name), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sorted_.scores, plain.scores, rtol=1e-4, atol=1e-5)


def test_every_process_does_as_many_passes_as_the_one_with_most():
    """Groups are cut smaller; where there are too few rows for that the last one is done again."""
    done: list[list[int]] = []
    MicroBatches(2, most=lambda groups: groups + 1).run([5, 4, 3, 2], done.append)
    assert len(done) == 3 and sorted(row for group in done for row in group) == [0, 1, 2, 3]
    done.clear()
    MicroBatches(2, most=lambda groups: 5).run([5, 4, 3], done.append)
    assert done == [[0], [1], [2], [2], [2]]


def test_with_others_no_process_halves_its_groups_alone():
    def work(group: list[int]) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        MicroBatches(4, most=lambda groups: groups).run([3, 2, 1], work)
