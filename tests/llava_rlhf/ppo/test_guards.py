"""Numbers that are not finite stop a run; the rows are in a file and nothing that was saved is lost."""

from __future__ import annotations

import json

import pytest
import torch

from llava_rlhf.ppo.actor_critic import ActorCritic
from llava_rlhf.ppo.checkpoints import read_state
from llava_rlhf.ppo.guards import LimitError, NonFiniteError
from llava_rlhf.ppo.limits import GuardArguments, reward_drop
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.update import PPOUpdater
from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from tests.support.broken_models import with_broken_weight
from tests.support.ppo_world import metrics_of, run_ppo, trained
from tests.support.tiers import tiered
from tests.support.tiny_data import ppo_command

NAN = float("nan")
WHAT = {
    "scores": "a score of the reward model",
    "values": "a value",
    "log_probs": "a log-probability of the policy",
    "ref_log_probs": "a log-probability of the reference",
}
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


@pytest.mark.parametrize("name", tiered(WHAT, quick=["scores"], daily=["log_probs"]))
def test_a_bad_rollout_stops_the_run_before_any_weight_moves(command, tmp_path, monkeypatch, name):
    items = spoil_scores(monkeypatch, name)
    run_until_it_stops(command(), f"step 3: {WHAT[name]} is not finite")
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


@pytest.mark.slow
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


@pytest.mark.parametrize("gradient", tiered([False, True], quick=[True]))
def test_a_bad_first_update_of_a_step_saves_the_state_before_it(command, tmp_path, monkeypatch, gradient):
    spoil_forward(monkeypatch, at_call=2 * KILL_STEP, gradient=gradient)  # two updates a step
    run_until_it_stops(command(), "step 3: the (loss|gradient)")
    run = tmp_path / "run"
    rows = json.loads((run / "nonfinite-step3-process0.json").read_text())
    assert len(rows) == 4 and all(row["id"] == f"row {row['row']}" for row in rows)
    assert [step_of(folder) for folder in complete_checkpoints(run)] == [KILL_STEP]
    assert not list(run.glob("stopped-in-step-*"))


def test_a_bad_first_update_takes_the_critics_units_back(command, tmp_path, monkeypatch):
    units = {"normalize_returns": True}
    run_ppo(command(output_dir=tmp_path / "whole", save_steps=1, **units))
    spoil_forward(monkeypatch, at_call=2 * KILL_STEP, gradient=False)
    run_until_it_stops(command(**units), "step 3: the loss")
    saved, expected = (tmp_path / run / "checkpoint-2" for run in ("run", "whole"))
    weights, others = trained(saved), trained(expected)
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert read_state(saved)["returns"] == read_state(expected)["returns"]


@pytest.mark.parametrize("gradient", tiered([False, True], quick=[True]))
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


# --- broken weights: nothing is patched


def test_an_infinite_weight_of_the_policy_is_noticed_while_it_samples(command, policy_run, tmp_path):
    adapter = "lora_policy/adapter_model.safetensors"
    broken = with_broken_weight(
        policy_run, tmp_path / "broken", adapter, "lora_B", lambda w: w[0].fill_(float("inf"))
    )
    run_until_it_stops(
        command(policy_model_name_or_path=broken),
        "step 1: a logit while sampling is, a log-probability of the policy is, .* of the reference is not finite",
    )
    rows = json.loads((tmp_path / "run" / "nonfinite-step1-process0.json").read_text())
    assert len(rows) == 8 and not any(row["finite_while_sampling"] for row in rows)


def test_a_broken_head_of_the_reward_model_is_named(command, reward_run, tmp_path):
    head = "reward_head.safetensors"
    broken = with_broken_weight(
        reward_run, tmp_path / "broken", head, "weight", lambda w: w[0, :1].fill_(NAN)
    )
    message = "step 1: a score of the reward model is not finite"
    run_until_it_stops(command(reward_model_name_or_path=broken), message)


def test_a_gradient_that_overflows_stops_before_it_reaches_the_weights(command, policy_run, tmp_path):
    """A ∝ 10³⁰ and B = 0: the policy is the base, its loss is finite, the gradient of B is not."""
    adapter = "lora_policy/adapter_model.safetensors"
    broken = with_broken_weight(policy_run, tmp_path / "broken", adapter, "lora_A", lambda w: w.mul_(1e30))
    with_broken_weight(broken, broken, adapter, "lora_B", lambda w: w.zero_())
    run_until_it_stops(command(policy_model_name_or_path=broken), "step 1: the gradient is not finite")
    assert not list((tmp_path / "run").glob("stopped-in-step-*")), "weights had moved"


# --- limits


LEARNS = {"learning_rate": 1e-2, "max_steps": 8, "total_epochs": 8}


def steps_of(run):
    return [line["step"] for line in metrics_of(run)]


def test_a_kl_above_the_limit_stops_the_run_and_keeps_the_checkpoints(command, tmp_path):
    run, free = tmp_path / "run", tmp_path / "free"
    run_ppo(command(**LEARNS, output_dir=free))
    kl = [line["objective/kl_sum_seq"] for line in metrics_of(free)]
    limit = sorted(kl)[4]
    first = next(step for step, value in enumerate(kl, 1) if value > limit)
    assert first > 1 and limit > 0
    with pytest.raises(LimitError, match=f"step {first}: KL is .* above --max_kl"):
        run_ppo(command(**LEARNS, max_kl=limit, save_steps=1, save_total_limit=1))
    assert steps_of(run) == list(range(1, first))
    assert [step_of(folder) for folder in complete_checkpoints(run)] == [first - 1], (
        "from before, and still there"
    )
    rows = json.loads((run / f"limit-step{first}-process0.json").read_text())
    kls = [
        sum(
            max(float(a) - float(b), 0.0) for a, b in zip(row["log_probs"], row["ref_log_probs"], strict=True)
        )
        for row in rows
    ]
    assert kls == sorted(kls, reverse=True) and sum(kls) / len(kls) == pytest.approx(kl[first - 1], rel=1e-4)
    kept, before = trained(run / f"stopped-in-step-{first}"), trained(run / f"checkpoint-{first - 1}")
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_a_warning_goes_on(command, tmp_path, caplog):
    run_ppo(command(**{**LEARNS, "max_steps": 3}, max_kl=1e-6, guard_action="warn"))
    assert steps_of(tmp_path / "run") == [1, 2, 3]
    warned = [record.message for record in caplog.records if "above --max_kl" in record.message]
    assert len(warned) >= 2
    assert len(list((tmp_path / "run").glob("limit-step*"))) == 1, "the rows are written once"


@pytest.mark.slow
def test_a_fall_of_the_reward_stops_the_run_also_after_a_resume(command, tmp_path):
    run_ppo(command(**LEARNS, output_dir=tmp_path / "free"))
    lines = metrics_of(tmp_path / "free")
    means, deviations = ([line[f"objective/{name}"] for line in lines] for name in ("rewards", "rewards_std"))
    drops = [reward_drop(means[:count], deviations[:count]) for count in range(1, 9)]
    assert max(drops) > 0, "the scores must fall somewhere"
    limit = max(drops) / 2
    first = next(step for step, value in enumerate(drops, 1) if value > limit)
    limited = {**LEARNS, "max_reward_drop": limit, "save_steps": 1}
    for name, before in (("run", None), ("resumed", first - 1)):
        output = {"output_dir": tmp_path / name}
        if before is not None:
            run_ppo(command(**{**limited, "max_steps": before}, **output))
        with pytest.raises(LimitError, match=f"step {first}: the mean score of 5 steps has fallen"):
            run_ppo(command(**limited, **output, allow_changed_arguments=True))


def test_the_fall_by_hand():
    rising = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert reward_drop(rising[:4], [1.0] * 4) == 0.0
    assert reward_drop(rising, [1.0] * 5) == 0.0
    # The best five are the first (mean 2); the last five have mean (1 + 2 + 3 + 4 − 5) / 5 = 1: 1 below, in units of 2.
    assert reward_drop([*rising, -5.0], [2.0] * 6) == pytest.approx(0.5)
    # σ² is the mean variance of the best five: (4 · 1 + 6²) / 5 = 8.
    assert reward_drop([*rising, -5.0], [1.0, 1.0, 1.0, 1.0, 6.0, 99.0]) == pytest.approx(1 / 8**0.5)
    # A later best replaces an earlier one: means 2, 4 (1 2 3 4 10), then 2.8 (2 3 4 10 −5).
    assert reward_drop([*rising, 10.0, -5.0], [1.0] * 7) == pytest.approx(4.0 - 2.8)
    assert reward_drop([1.0] * 5 + [0.0], [0.0] * 6) == float("inf")


@pytest.mark.parametrize(("flag", "value"), [("max_kl", -1.0), ("max_reward_drop", NAN), ("ddp_timeout", 0)])
def test_impossible_limits_are_refused(flag, value):
    with pytest.raises(ValueError, match=f"--{flag}"):
        GuardArguments(**{flag: value})
