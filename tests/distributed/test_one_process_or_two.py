"""One step in two processes equals the same global batch in one process, for each of the three programs.

AdamW's first step hardly depends on the size of a gradient, so the two `Trainer` programs are compared under plain SGD
at learning rate 1 without clipping, where a weight moves by its gradient, and PPO also by AdamW's first moments.
"""

from __future__ import annotations

import json
from statistics import pstdev

import pytest
from torch.testing import assert_close

from llava_rlhf.runs.tensor_files import load_tree
from tests.distributed.comparing import (
    assert_same_metrics,
    assert_same_roles,
    metrics_of,
    supervised_tokens,
    weights_in,
)
from tests.distributed.processes import POLICY_INIT, PPO, REWARD, run_in_processes
from tests.support.ppo_settings import ANOTHER_LOSS
from tests.support.reward_models import moved, with_mlp_head
from tests.support.tiny_data import changed, dpo_command, policy_command, ppo_command, reward_command

pytestmark = pytest.mark.distributed

MOVE_BY_GRADIENT = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}
ONE_PPO_STEP = {
    "rollout_batch_size": 8,
    "step_batch_size": 8,
    "noptepochs": 2,  # the second pass: the value adapter moves once its head is no longer zero
    "max_steps": 1,
    "response_len": 24,
    "max_grad_norm": 1e9,
}


def test_policy_initialisation(tmp_path, tiny_base, data):
    """Eight dialogues at once, and as 2 processes × 2 accumulated batches × 2."""
    layouts = {1: (8, 1), 2: (2, 2)}
    for world_size, (rows, accumulation) in layouts.items():
        batch = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        argv = policy_command(data, tiny_base, tmp_path / str(world_size), **MOVE_BY_GRADIENT, **batch)
        run_in_processes(POLICY_INIT, argv, world_size, tmp_path / str(world_size))
    assert_same_roles(tmp_path / "1", tmp_path / "2")
    assert_same_metrics(metrics_of(tmp_path / "1", 1), metrics_of(tmp_path / "2", 1))


def test_preference_optimisation(tmp_path, tiny_base, data, policy_folder):
    """Eight pairs at once, and as 2 processes × 2 accumulated batches × 2; in the second step margins are no longer 0.

    The three pairs behind them leave a second step to be filled.
    """
    eleven = changed(data.preferences, "eleven.json", lambda rows: rows[:11])
    layouts = {1: (8, 1), 2: (2, 2)}
    for world_size, (rows, accumulation) in layouts.items():
        batch = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        changes = {**MOVE_BY_GRADIENT, **batch, "max_steps": 2, "policy_model_name_or_path": policy_folder}
        argv = dpo_command(data, tiny_base, tmp_path / str(world_size), dataset_path=eleven, **changes)
        run_in_processes(POLICY_INIT, argv, world_size, tmp_path / str(world_size))
    assert_same_roles(tmp_path / "1", tmp_path / "2")
    assert abs(metrics_of(tmp_path / "1", 2)["reward_margin"]) > 1e-4
    for step in (1, 2):
        assert_same_metrics(metrics_of(tmp_path / "1", step), metrics_of(tmp_path / "2", step))


def test_dialogues_differ_in_supervised_tokens(data):
    """What makes the test above able to fail: a mean of means would weigh tokens by their neighbours."""
    assert len(set(supervised_tokens(data.dialogues))) > 1


def test_reward_model(tmp_path, tiny_base, data):
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        changes = {**MOVE_BY_GRADIENT, "per_device_train_batch_size": 4 // world_size}
        # With this seed the pairs of process 0 score above 0 on average, those of process 1 below: the absolute value
        # in the centring term would differ if each process took its own.
        argv = reward_command(data, tiny_base, folder, seed=6, **changes)
        run_in_processes(REWARD, argv, world_size, folder)
    assert "reward_head.safetensors" in weights_in(tmp_path / "1")
    assert_same_roles(tmp_path / "1", tmp_path / "2")
    assert_same_metrics(metrics_of(tmp_path / "1", 1), metrics_of(tmp_path / "2", 1))


@pytest.fixture(scope="module")
def run_both(tmp_path_factory, tiny_base, data, policy_folder, reward_folder):
    """A function (changes) → run folders of one PPO step in one process and in two."""

    def run(**changes):
        root = tmp_path_factory.mktemp("ppo")
        for world_size in (1, 2):
            # Two backward passes a step for both.
            batch = {"rollout_per_device_batch_size": 4, "step_per_device_batch_size": 4 // world_size}
            argv = ppo_command(
                data,
                tiny_base,
                policy_folder,
                reward_folder,
                root / str(world_size),
                **{**ONE_PPO_STEP, **batch, **changes},
            )
            run_in_processes(PPO, argv, world_size, root / str(world_size))
        return root / "1", root / "2"

    return run


@pytest.fixture(scope="module")
def ppo_runs(run_both):
    return run_both()


def rollouts(folder):
    return [json.loads(line) for line in (folder / "rollouts/000001.jsonl").read_text().splitlines()]


def test_ppo_roles(ppo_runs):
    one, two = ppo_runs
    assert set(weights_in(one)) >= {"lora_policy/adapter_model.safetensors", "value_head.safetensors"}
    assert_same_roles(one, two)


def test_ppo_metrics(ppo_runs):
    one, two = (metrics_of(folder, 1) for folder in ppo_runs)
    assert one["ppo/loss/grad_norm_policy"] > 0 < one["ppo/loss/grad_norm_value"]
    # The clipped loss is a difference of much larger terms.
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


def test_ppo_gradients(ppo_runs):
    """AdamW's moments: sums of (squared) gradients, which a wrong normalisation scales though the weights may agree."""
    one, two = (
        load_tree(folder / "checkpoint-1/optimizer.safetensors")["optimizer"]["state"] for folder in ppo_runs
    )
    assert len(one) > 0 and one.keys() == two.keys()
    for index, state in one.items():
        size = float(state["exp_avg"].abs().max())
        assert size > 0
        assert_close(two[index]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-4 * size)


@pytest.mark.slow
def test_whitened_rewards(run_both):
    """By the moments of all processes: with its own each would scale its rewards by another number."""
    folders = run_both(whiten_rewards=True, noptepochs=1)
    scores = [row["score"] for row in rollouts(folders[0])]
    of_processes = (pstdev(scores[0::2]), pstdev(scores[1::2]))
    assert max(of_processes) > 1.01 * min(of_processes)  # else a mistake could not show
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


@pytest.mark.nightly
def test_rewards_by_sentence(run_both):
    folders = run_both(reward_placement="sentence", temperature=2.0, noptepochs=1)
    one, two = map(rollouts, folders)
    assert max(len(row["sentences"]) for row in one) > 1
    for row, same in zip(one, two, strict=True):
        assert [sentence["end"] for sentence in same["sentences"]] == [
            each["end"] for each in row["sentences"]
        ]
        rewards = [sentence["reward"] for sentence in row["sentences"]]
        assert [sentence["reward"] for sentence in same["sentences"]] == pytest.approx(rewards, abs=1e-5)
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert one["response/sentences_mean"] > 1
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", [{}, {"advantage_estimator": "grpo", "samples_per_prompt": 4, "unmentioned": "ask_picture"}]
)
def test_fact_rewards(run_both, estimator):
    """Each process pays its own answers; what is logged and learned is that of all."""
    facts = {"fact_reward": "mentions", "unmentioned": "penalise", "temperature": 5.0, "noptepochs": 1}
    folders = run_both(**{**facts, **estimator})
    one, two = map(rollouts, folders)
    assert any(row["mentions"] for row in one)
    for row, same in zip(one, two, strict=True):
        assert [mention["end"] for mention in same["mentions"]] == [each["end"] for each in row["mentions"]]
        assert same["fact_mentions"] == pytest.approx(row["fact_mentions"], abs=1e-5)
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert one["objective/fact_mentions"] != 0
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


@pytest.mark.nightly
def test_claims(run_both):
    """Each process asks of its own answers, and keeps what it was told in a file of its own."""
    claims = {"fact_reward": "claims", "unmentioned": "ask_picture", "temperature": 5.0, "noptepochs": 1}
    folders = run_both(**claims)
    one, two = map(rollouts, folders)
    assert any(row["mentions"] for row in one)
    for row, same in zip(one, two, strict=True):
        for name in ("fact_mentions", "fact_coverage"):
            assert same[name] == pytest.approx(row[name], abs=1e-5)
    assert {path.name for path in (folders[1] / "claims").iterdir()} == {"answers_0.jsonl", "answers_1.jsonl"}
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert one["objective/fact_mentions"] != 0
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


@pytest.mark.nightly
def test_another_loss(run_both):
    """Its means over rollouts, its limit and what is masked are those of all processes."""
    folders = run_both(**ANOTHER_LOSS)
    assert_same_roles(*folders)
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert 0 < one["response/masked"] < 1 and one["ppo/optimizer_steps"] == 2
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


@pytest.mark.nightly
def test_an_ensemble(run_both, reward_folder, tmp_path):
    """Every process asks all reward models, and the spread is the mean over the rows of all."""
    members = [
        moved(reward_folder, tmp_path / "moved", seed=1),
        with_mlp_head(reward_folder, tmp_path / "mlp"),
    ]
    folders = run_both(more_reward_models=members, ensemble_beta=0.5, noptepochs=1)
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert one["objective/reward_spread"] > 1e-3
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)
    for row, other in zip(*map(rollouts, folders), strict=True):
        assert len(row["reward_models"]) == 3
        assert other["reward_models"] == pytest.approx(row["reward_models"], abs=1e-5)


@pytest.mark.slow
def test_a_critic_that_sees_facts_in_units_of_all_returns(run_both):
    # Returns in units of their own have mean 0, and so has the bias's gradient: AdamW makes steps of rounding there.
    folders = run_both(value_sees_facts=True, normalize_returns=True, value_learning_rate=1e-5)
    one, two = (metrics_of(folder, 1) for folder in folders)
    assert two.pop("ppo/loss/policy") == pytest.approx(one.pop("ppo/loss/policy"), abs=1e-5)
    assert_same_metrics(one, two)


def test_ppo_rollouts(ppo_runs):
    one, two = map(rollouts, ppo_runs)
    lengths = [row["length"] for row in one]
    # Unequal numbers of tokens on the two processes (rows 0, 2, … and 1, 3, …): means of means would differ.
    assert sum(lengths[::2]) != sum(lengths[1::2])
    assert len(one) == len(two) == 8
    for row, same in zip(one, two, strict=True):
        assert same == {
            name: pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value
            for name, value in row.items()
        }
