"""Batches larger than the data: lowered with a line that says so, recorded, and lowered alike when a run goes on."""

from __future__ import annotations

import json
import logging
import shutil
from types import SimpleNamespace

import pytest

from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.supervised.fitting import fit_batches
from tests.support.tiers import tiered
from tests.support.tiny_data import policy_command, ppo_command, reward_command


def settings(batch: int, accumulation: int, world_size: int) -> SimpleNamespace:
    return SimpleNamespace(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        world_size=world_size,
        rows_per_step=batch * accumulation * world_size,
        deepspeed=None,
        process_index=0,
        max_steps=-1,
    )


@pytest.mark.parametrize(
    ("asked", "rows", "lowered"),
    [
        ((24, 1, 1), 24, None),
        ((24, 1, 1), 16, (16, 1)),
        ((24, 1, 2), 16, (8, 1)),
        ((24, 1, 2), 15, (8, 1)),  # one row of a process carries no loss
        ((8, 4, 1), 10, (3, 4)),  # accumulation stays
        ((4, 5, 1), 16, (4, 4)),
        (
            (1, 2, 2),
            3,
            None,
        ),  # no step is smaller and takes all rows: one place is filled with a row without loss
        ((8, 4, 2), 3, (1, 2)),
        ((8, 2, 8), 3, (1, 1)),  # processes without a row fill their place
    ],
)
def test_the_step_takes_every_row(asked, rows, lowered):
    training = settings(*asked)
    found = fit_batches(training, rows)
    batch, accumulation, world_size = asked
    if lowered is None:
        assert found == {}
        return
    assert tuple(found.values()) == lowered
    assert training.per_device_train_batch_size == lowered[0] <= batch
    assert training.gradient_accumulation_steps == lowered[1] <= accumulation
    assert lowered[0] * lowered[1] * world_size >= rows


@pytest.mark.parametrize(
    ("program", "command", "asked", "lowered"),
    tiered(
        [
            (initialize_policy_model, policy_command, (9, 2), (8, 2)),
            (train_reward_model, reward_command, (17, 1), (16, 1)),
        ],
        quick=[initialize_policy_model],
        name=lambda case: case[0],
    ),
)
def test_a_batch_above_the_rows_is_lowered_recorded_and_trained(
    program, command, asked, lowered, tiny_data, tiny_base, tmp_path, caplog
):
    flags = ("per_device_train_batch_size", "gradient_accumulation_steps")
    shared = {"learning_rate": 1e-2, "max_steps": 3}
    with caplog.at_level(logging.INFO):
        prepared = program.prepare(
            command(
                tiny_data,
                tiny_base,
                tmp_path / "run",
                **dict(zip(flags, asked, strict=True)),
                **shared,
            )
        )
    assert (
        f"16 training rows are less than one step: --per_device_train_batch_size {asked[0]} ×" in caplog.text
    )
    assert (
        "going on with --per_device_train_batch_size {} --gradient_accumulation_steps {}".format(*lowered)
        in caplog.text
    )
    assert "--max_steps 3 goes before --num_train_epochs: 3.0 passes over the 16 training rows" in caplog.text
    program.run(prepared)
    record = json.loads((tmp_path / "run" / "arguments.json").read_text())
    assert record["lowered_to_fit_the_data"] == dict(zip(flags, lowered, strict=True))
    fitting = command(tiny_data, tiny_base, tmp_path / "fits", per_device_train_batch_size=16, **shared)
    program.run(program.prepare(fitting))
    losses = [
        [line["loss"] for line in read_json_lines(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("run", "fits")
    ]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("processes", [1, 4])
def test_a_continued_run_lowers_alike(
    processes, tiny_data, tiny_base, policy_run, reward_run, tmp_path, caplog, monkeypatch
):
    """16 prompts, of which 1 and 4 processes take 16; with 3, 12 would be left, which is refused."""
    sizes = {"rollout_batch_size": 48, "step_batch_size": 24, "rollout_per_device_batch_size": 4}
    argv = ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path / "run", **sizes, max_steps=3)
    with caplog.at_level(logging.INFO):
        prepared = train_rl_model.prepare(argv)
    assert (
        "16 prompts are less than --rollout_batch_size 48 takes; going on with --rollout_batch_size 16"
        in caplog.text
    )
    assert "--max_steps 3 goes before --total_epochs: 3.0 passes over the 16 prompts" in caplog.text
    train_rl_model.run(prepared)
    metrics = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3]
    (tmp_path / "run" / "finished.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    again = train_rl_model.prepare(argv)
    assert again.checkpoint == tmp_path / "run" / "checkpoint-2"
    assert (again.settings.ppo.rollout_batch_size, again.settings.ppo.step_batch_size) == (16, 8)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="rollout_batch_size: then 16, now 12"):
        train_rl_model.prepare(argv)
    allowed = train_rl_model.prepare([*argv, "--allow_changed_arguments", "True"])
    assert allowed.settings.ppo.rollout_batch_size == 12
