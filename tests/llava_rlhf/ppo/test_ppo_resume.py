"""A run that is killed and continued equals one that was not."""

from __future__ import annotations

import importlib.metadata
import json
import random
import shutil

import numpy as np
import pytest
import torch

from llava_rlhf.ppo.checkpoints import PPOState, read_state
from llava_rlhf.ppo.targets import TargetMaker
from llava_rlhf.runs.checkpoints import complete_checkpoints, step_of
from llava_rlhf.runs.random_state import random_state
from llava_rlhf.runs.run_folder import write_rollouts
from llava_rlhf.runs.tensor_files import load_tree
from tests.support.ppo_settings import PPO_WITH_STATE
from tests.support.ppo_world import assemble, metrics_of, run_ppo, trained


@pytest.fixture(scope="module")
def command(ppo_on_one_base):
    return lambda output_dir, **changes: ppo_on_one_base(output_dir, **{**PPO_WITH_STATE, **changes})


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo") / "whole"
    run_ppo(command(folder))
    return folder


def kill_in_step(monkeypatch, step):
    """The next run stops in PPO step `step` (from 0), after its rollouts, as a killed process would."""
    shape = TargetMaker.make
    steps = []

    def counting(self, *args):
        steps.append(None)
        if len(steps) == step + 1:
            raise KeyboardInterrupt
        return shape(self, *args)

    monkeypatch.setattr(TargetMaker, "make", counting)


def assert_same_run(folder, expected):
    weights, others = trained(folder), trained(expected)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert metrics_of(folder) == metrics_of(expected)
    files = sorted(path.name for path in (expected / "rollouts").iterdir())
    assert files == sorted(path.name for path in (folder / "rollouts").iterdir())
    for name in files:
        assert (folder / "rollouts" / name).read_bytes() == (expected / "rollouts" / name).read_bytes()


def test_killed_and_continued_equals_uninterrupted(command, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_in_step(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(command(tmp_path))
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == [1, 2]
    run_ppo(command(tmp_path))
    assert_same_run(tmp_path, uninterrupted)
    saved = [
        load_tree(folder / "checkpoint-4" / "optimizer.safetensors")["optimizer"]
        for folder in (tmp_path, uninterrupted)
    ]
    assert len(saved[0]["state"]) == len(trained(tmp_path)) > 0
    for key, entry in saved[0]["state"].items():
        assert all(torch.equal(value, saved[1]["state"][key][name]) for name, value in entry.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        # So warm, some answers have several sentences.
        {"reward_placement": "sentence", "temperature": 2.0, "response_len": 24, "lam": 0.9},
        {"advantage_estimator": "rloo", "samples_per_prompt": 2, "normalize_returns": False},
        {"recipe": "modern", "reward_placement": "sentence", "temperature": 2.0, "response_len": 24},
    ],
    ids=["rewards by sentence", "no critic", "the default recipe"],
)
def test_the_same_with_other_rewards_and_estimators(settings, command, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ppo(command(whole, **settings))
    with monkeypatch.context() as patch:
        kill_in_step(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(command(killed, **settings))
    run_ppo(command(killed, **settings))
    assert_same_run(killed, whole)
    if "reward_placement" in settings:
        assert max(metrics["response/sentences_mean"] for metrics in metrics_of(whole)) > 1


@pytest.mark.slow
def test_a_checkpoint_between_two_saves_is_made_again(command, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_in_step(patch, 3)  # step 3 is done, but only step 2 is saved
        with pytest.raises(KeyboardInterrupt):
            run_ppo(command(tmp_path, save_steps=2))
    run_ppo(command(tmp_path, save_steps=2))
    assert_same_run(tmp_path, uninterrupted)


def test_rollouts_of_steps_that_are_done_again_are_gone_before_them(
    command, uninterrupted, tmp_path, monkeypatch
):
    """Also those that this run would not write again: of a longer one, or of steps it does not reach."""
    for name in ("checkpoint-2", "rollouts"):
        shutil.copytree(uninterrupted / name, tmp_path / name)
    shutil.copy(uninterrupted / "metrics.jsonl", tmp_path)
    write_rollouts(tmp_path, 9, [{"id": "of a longer run"}])
    kill_in_step(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        run_ppo(command(tmp_path))
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == ["000001.jsonl", "000002.jsonl"]
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2]


def test_a_finished_run_says_so_and_changes_nothing(command, uninterrupted, capsys):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    with pytest.raises(SystemExit) as stopped:
        run_ppo(command(uninterrupted))
    assert stopped.value.code == 0 and "is finished (4 steps)" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}


@pytest.mark.slow
def test_checkpoints_hold_what_their_name_says(command, tmp_path, uninterrupted):
    run_ppo(command(tmp_path, save_steps=3, save_total_limit=1))
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == [4]  # always after the last step
    last, final = trained(tmp_path / "checkpoint-4"), trained(tmp_path)
    assert all(torch.equal(last[name], final[name]) for name in final)
    # Step 2 of the other run: not yet the final weights.
    middle = trained(uninterrupted / "checkpoint-2")
    assert not torch.equal(middle["head.weight"], trained(uninterrupted)["head.weight"])


def test_a_failing_save_leaves_the_older_checkpoint(command, tmp_path, monkeypatch):
    write_roles = PPOState._write_roles
    calls = []

    def failing(self, folder):
        calls.append(folder)
        write_roles(self, folder)
        if len(calls) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(PPOState, "_write_roles", failing)
    with pytest.raises(OSError, match="disk full"):
        run_ppo(command(tmp_path))
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == [1]
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_checkpoint_restores_the_random_state(command, tmp_path):
    state = assemble(command(tmp_path)).trainer.state

    def draws():
        return random.random(), float(np.random.rand()), torch.rand(3).tolist()

    state.save(tmp_path / "checkpoint-1", 1, {}, random_state())
    expected = draws()
    assert draws() != expected
    state.load(tmp_path / "checkpoint-1")
    assert draws() == expected


def test_a_checkpoint_restores_the_scaler_of_float16(command, tmp_path):
    state = assemble(command(tmp_path)).trainer.state

    def scaler(scale):
        return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)

    state.accelerator.scaler = scaler(2.0**9)
    state.save(tmp_path / "checkpoint-1", 1, {}, random_state())
    saved = state.accelerator.scaler.state_dict()
    state.accelerator.scaler = scaler(2.0**16)
    state.load(tmp_path / "checkpoint-1")
    assert state.accelerator.scaler.state_dict() == saved and saved["scale"] == 512.0


def test_a_checkpoint_says_where_in_the_prompts_it_is(command, uninterrupted):
    """16 prompts, 8 a step: step 4 ends the second epoch, step 3 its first half."""
    places = [read_state(uninterrupted / f"checkpoint-{step}") for step in (3, 4)]
    assert [(place["step"], place["epoch"], place["prompts_done_in_epoch"]) for place in places] == [
        (3, 1, 8),
        (4, 2, 0),
    ]
    record = json.loads((uninterrupted / "checkpoint-4" / "arguments.json").read_text())
    assert record["PPOArguments"]["seed"] == 3 and record["processes"] == 1
    assert record["environment"]["torch"] == importlib.metadata.version("torch")


def test_nothing_in_a_checkpoint_is_pickled(uninterrupted):
    suffixes = {path.suffix for path in (uninterrupted / "checkpoint-4").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ""}  # "" is COMPLETE
