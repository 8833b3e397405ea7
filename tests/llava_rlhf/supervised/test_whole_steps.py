"""What fills an incomplete step has no part in its loss."""

from __future__ import annotations

import pytest
import torch

from data_utils.batches import FILL, NO_LOSS, WholeStepsCollator
from data_utils.datasets import WholeSteps
from llava_rlhf import initialize_policy_model, train_reward_model
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.tiers import tiered
from tests.support.tiny_data import policy_command, reward_command

# Nothing moves, so that losses of several steps are those of one model.
STILL = {"learning_rate": 0.0, "num_train_epochs": 1, "max_steps": -1, "save_strategy": "no"}


def losses(program, command, tiny_data, tiny_base, folder, rows_per_step, monkeypatch):
    """(row numbers, logged loss) of every step of one epoch."""
    seen = []
    call = WholeStepsCollator.__call__

    def collating(self, items):
        batch = call(self, items)
        seen.append(batch["rows"].tolist())
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(WholeStepsCollator, "__call__", collating)
        argv = command(tiny_data, tiny_base, folder, per_device_train_batch_size=rows_per_step, **STILL)
        prepared = program.prepare(argv)
        program.run(prepared)
    logged = [line["loss"] for line in read_json_lines(folder / "metrics.jsonl") if "loss" in line]
    return prepared, list(zip(seen, logged, strict=True))


@pytest.mark.parametrize(
    ("program", "command"),
    tiered(
        [(initialize_policy_model, policy_command), (train_reward_model, reward_command)],
        quick=[train_reward_model],
        name=lambda case: case[0],
    ),
)
def test_the_loss_of_an_incomplete_step(program, command, tiny_data, tiny_base, tmp_path, monkeypatch):
    """16 rows in steps of 12 are 12 and 4; weighted by what counts in them, their losses are that of all 16 at once."""
    everything = (program, command, tiny_data, tiny_base)
    prepared, ((_, whole),) = losses(*everything, tmp_path / "whole", 16, monkeypatch)
    _, steps = losses(*everything, tmp_path / "steps", 12, monkeypatch)
    assert [len(rows) for rows, _ in steps] == [12, 12]
    real = [[row for row in rows if row != FILL] for rows, _ in steps]
    assert sorted(real[0] + real[1]) == list(range(16))
    counts = dict.fromkeys(range(16), 1)
    if program is initialize_policy_model:
        data = prepared.train_set
        counts = dict(zip(data.column("row"), map(sum, data.column("supervised")), strict=True))
        assert len(set(counts.values())) > 1
    weights = [sum(counts[row] for row in rows) for rows in real]
    mean = sum(weight * loss for weight, (_, loss) in zip(weights, steps, strict=True)) / sum(weights)
    assert mean == pytest.approx(whole, rel=1e-5)
    assert steps[0][1] != pytest.approx(whole, rel=1e-4)


def test_fills_have_no_labels_and_no_number(tiny_data, tiny_base, tmp_path):
    prepared = train_reward_model.prepare(reward_command(tiny_data, tiny_base, tmp_path))
    rows = WholeSteps(prepared.train_set, 12)
    assert len(rows) == 24 and [rows[index][0] for index in range(24)] == [*range(16), *[FILL] * 8]
    collator = WholeStepsCollator(
        lambda items: {"choice": torch.tensor([int(item.preference == 2) for item in items])}
    )
    batch = collator([rows[index] for index in (3, 17, 15)])
    assert batch["rows"].tolist() == [3, FILL, 15]
    assert batch["choice"].tolist()[1] == NO_LOSS and NO_LOSS not in batch["choice"].tolist()[::2]
    assert len(WholeSteps(prepared.train_set)) == 16
