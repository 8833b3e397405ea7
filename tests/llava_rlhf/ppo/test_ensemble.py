"""Several reward models over one base: whose adapters and heads score, what is put together, and what a run says of it."""

from __future__ import annotations

import json

import pytest
import torch

from llava_rlhf import train_rl_model
from llava_rlhf.functional.rewards import ensemble_scores
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.reward_shaping import shape_rewards
from llava_rlhf.ppo.rollout_rows import rollout_row
from llava_rlhf.ppo.targets import Targets
from tests.support.plain_models import plain_reward
from tests.support.ppo_settings import PPO_WITH_STATE
from tests.support.ppo_world import assemble, largest_difference, metrics_of, run_ppo, trained
from tests.support.reward_models import moved, with_mlp_head

ROWS = [0, 2, 3, 5, 6]
BETA = 0.6


@pytest.fixture(scope="module")
def members(reward_run, tmp_path_factory):
    """Two besides the reward model: one that moved, one with another kind of head."""
    folder = tmp_path_factory.mktemp("members")
    return [moved(reward_run, folder / "moved", seed=1), with_mlp_head(reward_run, folder / "mlp")]


@pytest.fixture(scope="module")
def flags(members):
    return {"more_reward_models": members, "ensemble_beta": BETA}


@pytest.fixture(scope="module")
def ensemble(command, flags):
    return assemble(command(**flags))


def targets_of(experience: Experience) -> Targets:
    """Some, of which a row says nothing about reward models."""
    return Targets(experience.log_probs, experience.response_mask)


def test_each_scores_as_it_does_alone_and_rows_say_it(ensemble, tiny_base, reward_run, members):
    experience = ensemble.collect(ROWS)
    found = experience.member_scores
    for column, folder in enumerate((reward_run, *members)):
        alone = plain_reward(tiny_base, folder)
        for row, item in enumerate(experience.items):
            response = experience.responses[row][experience.response_mask[row]].tolist()
            images = ensemble.prepared.prompts[ROWS[row]].images
            expected = alone.score([*item.query_ids, *response, *item.reward_prompt_ids], images)
            assert found[row, column].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert (found.std(dim=1) > 1e-3).all(), "members that say the same would test nothing"
    assert torch.equal(experience.scores, ensemble_scores(found, BETA)[0])
    shaped = shape_rewards(experience, 6, ensemble.prepared.settings.reward, 0.1)
    line = rollout_row(experience, shaped, targets_of(experience), 2, 6)
    assert line["reward_models"] == found[2].tolist() and line["reward_model"] == experience.scores[2].item()


def test_scores_do_not_depend_on_who_is_scored_together(ensemble):
    batches = ensemble.trainer.collector.scorer.batches
    together = ensemble.collect(ROWS).member_scores
    rows, batches.max_rows = batches.max_rows, 1
    alone = ensemble.collect(ROWS).member_scores
    batches.max_rows = rows
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_the_critic_starts_from_the_first_and_no_member_is_trained(ensemble):
    value, *others = ensemble.roles.value, *ensemble.roles.rewards
    states = [role.bank.state_dict_of(role.adapter) for role in (value, *others)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[2])
    assert [role.adapter for role in others] == ["lora_reward", "lora_reward_1", "lora_reward_2"]
    for role in others:
        weights = [*role.bank.parameters_of(role.adapter).values(), *role.head.parameters()]
        assert not any(weight.requires_grad for weight in weights)


def test_a_run_of_one_says_nothing_of_a_spread(parts):
    experience = parts.collect(ROWS[:2])
    assert experience.member_scores is None
    shaped = shape_rewards(experience, 6, parts.prepared.settings.reward, 0.1)
    assert "reward_models" not in rollout_row(experience, shaped, targets_of(experience), 0, 6)


def test_members_that_agree_are_one_reward_model(command, reward_run, tmp_path):
    """Whatever beta is: what a copy of the reward model says has no spread."""
    folders = [moved(reward_run, tmp_path / str(number), number, spread=0.0) for number in (1, 2, 3)]
    one = assemble(command()).collect(ROWS)
    four = assemble(command(more_reward_models=folders, ensemble_beta=5.0)).collect(ROWS)
    torch.testing.assert_close(four.scores, one.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_members_wherever_they_lie(ppo_on_one_base, flags, members, tmp_path):
    settings, folder = {"max_steps": 1}, tmp_path / "run"
    run_ppo(ppo_on_one_base(folder, **flags, **settings))
    (line,) = metrics_of(tmp_path / "run")
    rows = (tmp_path / "run" / "rollouts" / "000001.jsonl").read_text().splitlines()
    found = torch.tensor([json.loads(row)["reward_models"] for row in rows])
    assert line["objective/reward_spread"] == pytest.approx(found.std(dim=1, correction=0).mean().item())
    copied = moved(members[0], tmp_path / "copied", seed=0, spread=0.0)
    settings |= {"max_steps": 2, "allow_changed_arguments": True}
    changed = {**flags, "more_reward_models": [copied, members[1]]}
    prepared = train_rl_model.prepare(ppo_on_one_base(folder, **changed, **settings))
    assert prepared.checkpoint == folder / "checkpoint-1"
    settings["allow_changed_arguments"] = False
    with pytest.raises(ValueError, match="max_steps: then 1, now 2") as refused:
        train_rl_model.prepare(ppo_on_one_base(folder, **changed, **settings))
    assert "more_reward_models" not in str(refused.value)  # another place of the same content is no change
    other = moved(members[0], tmp_path / "other", seed=2)
    for changes, message in (
        ({"more_reward_models": [other, members[1]]}, "content of more_reward_models: then "),
        ({"more_reward_models": members[:1]}, "content of more_reward_models: then "),
        ({"more_reward_models": members, "ensemble_beta": 0.1}, "ensemble_beta: then 0.6, now 0.1"),
        ({"more_reward_models": [], "ensemble_beta": None}, "content of more_reward_models: then "),
    ):
        changed = {**flags, **changes}
        changed["more_reward_models"] = changed["more_reward_models"] or None
        with pytest.raises(ValueError, match=message):
            train_rl_model.prepare(ppo_on_one_base(folder, **changed, **settings))


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(ppo_on_one_base, flags, tmp_path):
    settings = {**PPO_WITH_STATE, **flags}
    run_ppo(ppo_on_one_base(tmp_path / "whole", **settings))
    (tmp_path / "again").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "again" / "checkpoint-2")
    (tmp_path / "again" / "metrics.jsonl").write_text((tmp_path / "whole" / "metrics.jsonl").read_text())
    run_ppo(ppo_on_one_base(tmp_path / "again", **settings))
    assert metrics_of(tmp_path / "again") == metrics_of(tmp_path / "whole")
    assert largest_difference(trained(tmp_path / "again"), trained(tmp_path / "whole")) == 0
    for step in (3, 4):
        lines = [tmp_path / name / "rollouts" / f"00000{step}.jsonl" for name in ("again", "whole")]
        assert lines[0].read_bytes() == lines[1].read_bytes()
