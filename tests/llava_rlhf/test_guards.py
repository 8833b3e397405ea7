"""Numbers that are not finite stop a run; the rows are in a file and nothing that was saved is lost."""

from __future__ import annotations

import json

import pytest
import torch

from llava_rlhf.actor_critic import ActorCritic
from llava_rlhf.checkpoints import complete_checkpoints, step_of
from llava_rlhf.guards import NonFiniteError
from llava_rlhf.ppo_update import PPOUpdater
from llava_rlhf.rollout import RolloutCollector
from tests.llava_rlhf.ppo_world import metrics_of, run_ppo, trained
from tests.tiny_data import ppo_command

NAN = float("nan")
KILL_STEP = 2  # counted from 0: two steps are done before


@pytest.fixture
def command(tiny_data, tiny_base, policy_run, reward_run, tmp_path):
    def make(**changes):
        settings = {"max_steps": 4, "save_steps": 10, **changes}  # no save of its own before the failure
        return ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path / "run", **settings)

    return make


def spoil_scores(monkeypatch, name="scores", row=3):
    """From step KILL_STEP on, one number of one row is NaN."""
    collect, calls, items = RolloutCollector.collect, [], []

    def collecting(self, *arguments):
        experience = collect(self, *arguments)
        calls.append(None)
        if len(calls) > KILL_STEP:
            getattr(experience, name)[row] = NAN
            items.append(experience.items[row])
        return experience

    monkeypatch.setattr(RolloutCollector, "collect", collecting)
    return items


def spoil_forward(monkeypatch, at_call, gradient):
    """In the `at_call`th training forward (from 0) the values, or only their gradient, become NaN."""
    forward, calls = ActorCritic.value_outputs, []

    def spoiled(self, sequences):
        values = forward(self, sequences)
        if len(calls) == at_call:
            if gradient:
                values.register_hook(lambda grad: grad * NAN)
            else:
                values = values * NAN
        calls.append(None)
        return values

    monkeypatch.setattr(ActorCritic, "value_outputs", spoiled)


def run_until_it_stops(command, message):
    with pytest.raises(NonFiniteError, match=message):
        run_ppo(command)


@pytest.mark.parametrize("name", ["scores", "values", "log_probs", "ref_log_probs"])
def test_a_bad_rollout_stops_the_run_before_any_weight_moves(command, tmp_path, monkeypatch, name):
    items = spoil_scores(monkeypatch, name)
    run_until_it_stops(command(), "step 3: a score, value or log-probability is not finite")
    run = tmp_path / "run"
    (description,) = json.loads((run / "nonfinite-step3-process0.json").read_text())
    assert (description["row"], description["id"]) == (items[0].row, items[0].id)
    if name == "scores":
        assert description["score"] == "nan"
    else:
        assert "nan" in description[name]
    # The state before the step, which no `save_steps` would have kept.
    assert [step_of(folder) for folder in complete_checkpoints(run)] == [KILL_STEP]
    assert all(torch.isfinite(value).all() for value in trained(run / "checkpoint-2").values())
    assert [line["step"] for line in metrics_of(run)] == [1, 2]


def test_the_saved_state_is_the_one_before_the_step(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoil_scores(patch)
        run_until_it_stops(command(), "step 3")
    run_ppo(command())  # the fault is gone: goes on from the saved state
    run_ppo(command(output_dir=tmp_path / "never spoilt"))
    continued, whole = trained(tmp_path / "run"), trained(tmp_path / "never spoilt")
    assert all(torch.equal(continued[name], whole[name]) for name in whole)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "never spoilt")


def test_an_existing_checkpoint_is_not_written_again(command, tmp_path, monkeypatch):
    spoil_scores(monkeypatch)
    run = tmp_path / "run"
    marker = {}
    update = PPOUpdater.update

    def updating(self, *args):
        marker.update({path: path.stat().st_mtime_ns for path in run.glob("checkpoint-*/COMPLETE")})
        return update(self, *args)

    monkeypatch.setattr(PPOUpdater, "update", updating)
    run_until_it_stops(command(save_steps=1), "step 3")
    assert [step_of(folder) for folder in complete_checkpoints(run)] == [1, 2]
    assert all(path.stat().st_mtime_ns == time for path, time in marker.items()) and marker


@pytest.mark.parametrize("gradient", [False, True])
def test_a_bad_first_update_of_a_step_saves_the_state_before_it(command, tmp_path, monkeypatch, gradient):
    spoil_forward(monkeypatch, at_call=2 * KILL_STEP, gradient=gradient)  # two updates a step
    run_until_it_stops(command(), "step 3: the (loss|gradient)")
    run = tmp_path / "run"
    rows = json.loads((run / "nonfinite-step3-process0.json").read_text())
    assert len(rows) == 4 and all(row["id"] == f"row {row['row']}" for row in rows)
    assert [step_of(folder) for folder in complete_checkpoints(run)] == [KILL_STEP]
    assert not list(run.glob("stopped-in-step-*"))


@pytest.mark.parametrize("gradient", [False, True])
def test_a_bad_later_update_keeps_the_weights_apart_from_checkpoints(
    command, tmp_path, monkeypatch, gradient
):
    spoil_forward(monkeypatch, at_call=2 * KILL_STEP + 1, gradient=gradient)
    run_until_it_stops(command(save_steps=1), "step 3")
    run = tmp_path / "run"
    assert [step_of(folder) for folder in complete_checkpoints(run)] == [1, 2]
    kept, before = trained(run / "stopped-in-step-3"), trained(run / "checkpoint-2")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert any(not torch.equal(kept[name], before[name]) for name in kept)


def test_a_bad_first_step_leaves_no_checkpoint(command, tmp_path, monkeypatch):
    spoil_forward(monkeypatch, at_call=0, gradient=False)
    run_until_it_stops(command(), "step 1: the loss is not finite")
    assert complete_checkpoints(tmp_path / "run") == []
