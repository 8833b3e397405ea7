"""The omission trap: what training makes of a policy that could earn nothing by saying nothing."""

from __future__ import annotations

import pytest

from tests.support.ppo_world import metrics_of, run_ppo
from tests.support.tiny_data import ppo_command

pytestmark = pytest.mark.slow

# Facts alone, no leash, answers of a few words: only what is said of things counts.
ALONE = {
    "fact_reward": "mentions",
    "reward_model_coef": 0,
    "kl_coef": 0,
    "length_bonus_score": 0,
    "correct_bonus_score": 0,
    "penalize_no_stop_token": False,
    "advantage_estimator": "reinforce",
    "samples_per_prompt": 4,
    "rollout_batch_size": 32,
    "rollout_per_device_batch_size": 8,
    "step_batch_size": 32,
    "step_per_device_batch_size": 32,
    "noptepochs": 2,
    "max_steps": 30,
    "response_len": 8,
    "temperature": 2.0,
    "learning_rate": 1e-2,
    "save_steps": 100,
    "reward_scale": 1.0,
}
PUNISHED = {"unmentioned": "penalise", "fact_right_score": 0, "fact_coverage_score": 1e-6}


@pytest.fixture(scope="module")
def train(tiny_data, tiny_base, policy_run, reward_run, tmp_path_factory):
    """train(policy, **changes): the folder of a run from a policy, and its silent answers and named things by thirds."""

    def run(policy=policy_run, **changes):
        folder = tmp_path_factory.mktemp("omission")
        settings = {**ALONE, **changes}
        run_ppo(ppo_command(tiny_data, tiny_base, policy, reward_run, folder, **settings))
        lines = metrics_of(folder)
        third = len(lines) // 3
        ends = (lines[:third], lines[-third:])
        return folder, [
            {name: sum(line[name] for line in part) / third for name in lines[0]} for part in ends
        ]

    return run


def test_punishment_alone_makes_a_policy_silent_and_the_defaults_do_not(train):
    speaks, (before, after) = train()
    assert after["facts/silent"] < 0.8 * before["facts/silent"]
    assert after["facts/named"] > 1.5 * before["facts/named"]
    # From the policy that speaks: with punishment and nothing else it learns silence, so silence is in its reach …
    _, (before, after) = train(speaks, max_steps=15, **PUNISHED)
    assert after["facts/silent"] > before["facts/silent"] + 0.2
    # … which it does not take where right things pay more than its guesses cost: one in four or five is right.
    _, (before, after) = train(speaks, max_steps=15, unmentioned="penalise", fact_wrong_score=-0.05)
    assert after["facts/silent"] < before["facts/silent"] + 0.1
    assert after["objective/rewards"] > 0
