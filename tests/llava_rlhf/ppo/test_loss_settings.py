"""Settings of the policy's loss: what advantages, an update and a whole run make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.policy_objective import MicroBatch, PolicyObjective, StepTotals
from llava_rlhf.ppo.return_normalizer import ReturnNormalizer
from llava_rlhf.ppo.reward_shaping import shape_rewards
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.targets import TargetMaker
from llava_rlhf.ppo.update import PPOUpdater
from models.heads import ScalarHead
from tests.llava_rlhf.ppo.test_reward_shaping import experience
from tests.support.ppo_settings import ppo_arguments
from tests.support.ppo_world import largest_difference, metrics_of, run_ppo, trained


def targets_of(rows=None, normalizer=None, whiten_rewards=False, response_len=2, estimator=None, **settings):
    """Of two responses, 4 tokens with a stop and score 1, and 2 tokens without one and score -0.5."""
    loss, rows = LossArguments(**settings), rows or experience()
    shaping = RewardArguments(
        kl_coef=0.0, reward_scale=1.0, length_bonus_score=0.0, whiten_rewards=whiten_rewards
    )
    shaped = shape_rewards(rows, response_len, shaping, 0.0, loss)
    estimator = estimator or EstimatorArguments()
    maker = TargetMaker(Accelerator(cpu=True), ppo_arguments(lam=1.0), shaping, estimator, loss, normalizer)
    return *maker.make(rows, shaped), maker


def test_how_far_answers_to_one_prompt_lie_apart():
    # They earn 1 and -8.5: 4.75 from their mean; there is one prompt, so nothing between prompts.
    pair = EstimatorArguments(advantage_estimator="rloo", samples_per_prompt=2)
    _, metrics, _ = targets_of(estimator=pair)
    found = {
        name: metrics[f"ppo/groups/{name}"] for name in ("spread_within", "spread_across", "without_spread")
    }
    assert found == {"spread_within": 4.75, "spread_across": 0.0, "without_spread": 0.0}


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_answers_that_score_the_same_have_no_spread_whatever_their_kl(kl_coef):
    rows = replace(experience(), scores=torch.tensor([1.0, 1.0]), stopped=torch.tensor([True, True]))
    shaping = RewardArguments(kl_coef=kl_coef, length_bonus_score=0.0, correct_bonus_score=0.0)
    shaped = shape_rewards(rows, 2, shaping, kl_coef, LossArguments())
    pair = EstimatorArguments(advantage_estimator="rloo", samples_per_prompt=2)
    maker = TargetMaker(Accelerator(cpu=True), ppo_arguments(), shaping, pair, LossArguments())
    _, metrics = maker.make(rows, shaped)
    assert metrics["ppo/groups/without_spread"] == 1.0
    assert (metrics["ppo/groups/spread_within"] > 0) == (kl_coef > 0)


def test_advantages_are_cut_off():
    # Advantages 1 (four tokens) and -8.5 (two): mean -2.1667, std 4.4783; whitened .7071 and -1.4142.
    targets, metrics, _ = targets_of()
    torch.testing.assert_close(targets.advantages[0], torch.full((4,), 0.5**0.5))
    torch.testing.assert_close(targets.advantages[1, :2], torch.full((2,), -(2**0.5)))
    assert "ppo/advantages/clipfrac" not in metrics
    targets, metrics, _ = targets_of(advantage_clip=1.25)
    torch.testing.assert_close(targets.advantages[0], torch.full((4,), 0.5**0.5))
    torch.testing.assert_close(targets.advantages[1, :2], torch.full((2,), -1.25))
    assert metrics["ppo/advantages/clipfrac"] == pytest.approx(2 / 6)


def test_a_masked_response_takes_part_in_no_statistics():
    targets, metrics, _ = targets_of(overlong_responses="mask")
    assert targets.learned.tolist() == [[True] * 4, [False] * 4]
    assert metrics["ppo/returns/mean"] == 1.0 and metrics["ppo/returns/var"] == 0.0
    # All advantages are alike, so that none is left.
    assert targets.advantages.abs().max() == 0 and targets.returns[1].abs().max() == 0


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_what_a_masked_answer_earned_stands_in_its_group(whiten_rewards):
    """Token rewards that count are 0, 0, 0, 1, of mean .25 and spread sqrt(3) / 4; the masked answer earned -.5, not 0."""
    pair = EstimatorArguments(advantage_estimator="rloo", samples_per_prompt=2)
    targets, _, _ = targets_of(whiten_rewards=whiten_rewards, estimator=pair, overlong_responses="mask")
    spread = 3**0.5 / 4 if whiten_rewards else 1.0
    mean = 0.25 if whiten_rewards else 0.0
    first, second = (
        (earned - tokens * mean) / spread + tokens * mean for earned, tokens in ((1, 4), (-0.5, 2))
    )
    torch.testing.assert_close(targets.advantages[0], torch.full((4,), first - second))
    assert targets.advantages[1].abs().max() == 0


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_nothing_but_masked_responses_leaves_nothing_to_learn(whiten_rewards):
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    rows = replace(experience(), stopped=~everywhere[:, 0], response_mask=everywhere, counted=everywhere)
    normalizer = ReturnNormalizer(ScalarHead(4))
    targets, metrics, maker = targets_of(
        rows, normalizer, whiten_rewards, response_len=4, overlong_responses="mask"
    )
    assert not targets.learned.any() and targets.advantages.abs().max() == 0
    assert all(value == value for value in metrics.values()), "NaN is no JSON"
    maker.in_critics_units(targets)
    assert not normalizer.begun


def micro_batch(learned, entropy=None):
    """Two responses of 2 and 1 tokens at ratio 1."""
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    old = log_probs.detach().clone()
    batch = MicroBatch(None, None, learned, learned, old, old - 0.5, entropy, old, advantages, advantages)
    return batch, log_probs


def loss_of(learned, entropy=None, **settings):
    batch, log_probs = micro_batch(learned, entropy)
    totals = StepTotals(
        learned.sum().clamp_min(1), learned.any(dim=1).sum().clamp_min(1), 0.25, critic_alone=False
    )
    objective = PolicyObjective(0.2, LossArguments(**settings), KLEstimator.K1, 4)
    loss = objective.of(batch, log_probs, entropy, totals)
    (loss.sum / totals.tokens).backward()
    return loss, float((loss.sum / totals.tokens).detach()), log_probs.grad


MASK = torch.tensor([[True, True], [True, False]])


def test_the_terms_add_up():
    entropy = torch.tensor([[0.5, 1.0], [2.0, 9.0]])
    assert loss_of(MASK, entropy)[1] == pytest.approx(-(1 + 2 + 3) / 3)
    # A quarter of a KL of .5 a token.
    loss, total, gradient = loss_of(MASK, entropy, kl_placement="loss")
    assert total == pytest.approx(-2 + 0.125) and loss.stats["loss/kl"] == 1.5
    # d/d log p of rho · (log p − log p_ref) at rho = 1: .5 + 1, times .25, beside −A; over 3 tokens.
    torch.testing.assert_close(gradient[0], torch.tensor([-1 + 0.375, -2 + 0.375]) / 3)
    assert loss_of(MASK, entropy, entropy_coef=0.1)[1] == pytest.approx(-2 - 0.1 * 3.5 / 3)
    together = {"kl_placement": "loss", "entropy_coef": 0.1, "loss_normalization": "sequence"}
    rows = (-1.5 + 0.125 - 0.1 * 0.75, -3 + 0.125 - 0.1 * 2)
    assert loss_of(MASK, entropy, **together)[1] == pytest.approx(sum(rows) / 2)
    together["loss_normalization"] = "constant"
    rows = (2 * (-1.5 + 0.125 - 0.1 * 0.75) / 4, (-3 + 0.125 - 0.1 * 2) / 4)
    assert loss_of(MASK, entropy, **together)[1] == pytest.approx(sum(rows) / 2)


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
def test_without_a_response_the_loss_is_0(normalization):
    _, total, gradient = loss_of(MASK & False, loss_normalization=normalization)
    assert total == 0 and gradient.abs().max() == 0


@pytest.mark.slow
def test_a_step_of_nothing_but_masked_responses_moves_nothing(ppo_on_one_base, tmp_path, monkeypatch):
    collect = RolloutCollector.collect

    def cut_off(self, *arguments):
        rows = collect(self, *arguments)
        rows.stopped = torch.zeros_like(rows.stopped)
        return rows

    monkeypatch.setattr(RolloutCollector, "collect", cut_off)
    run_ppo(ppo_on_one_base(tmp_path, overlong_responses="mask", response_len=1, max_steps=1))
    (metrics,) = metrics_of(tmp_path)
    assert metrics["response/masked"] == 1
    assert metrics["ppo/loss/policy"] == metrics["ppo/loss/value"] == metrics["ppo/loss/grad_norm"] == 0


@pytest.mark.parametrize("optimizer_batch", [8, 4])
def test_moments_of_earlier_steps_move_nothing_where_nothing_is_learned(
    optimizer_batch, ppo_on_one_base, tmp_path, monkeypatch
):
    """Of the second PPO step, all answers, or those of its first optimizer step, are masked."""
    update = PPOUpdater.update

    def masked(self, experience, targets, step, *arguments):
        if step == 1:
            rows = next(iter(self.stream.optimizer_batches(step, 0, optimizer_batch)))
            targets.learned[torch.tensor(rows)] = False
        return update(self, experience, targets, step, *arguments)

    monkeypatch.setattr(PPOUpdater, "update", masked)
    argv = ppo_on_one_base(tmp_path, step_batch_size=optimizer_batch, noptepochs=1, update_kl_limit=9.0)
    run_ppo(argv)
    before, after = (trained(tmp_path / f"checkpoint-{step}") for step in (1, 2))
    first, second = metrics_of(tmp_path)
    assert first["ppo/optimizer_steps"] == 8 / optimizer_batch
    assert second["ppo/optimizer_steps"] == 8 / optimizer_batch - 1
    moved = largest_difference(before, after)
    assert moved == 0 if optimizer_batch == 8 else moved > 0
    assert second.keys() == first.keys()


def test_a_limit_leaves_later_optimizer_steps_out(ppo_on_one_base, tmp_path):
    """The first step of a PPO step measures a ratio of 1 and so no KL; the second, which passes the limit, is taken."""
    settings = {"max_steps": 1, "step_batch_size": 8}
    run_ppo(ppo_on_one_base(tmp_path / "limit", update_kl_limit=1e-9, noptepochs=4, **settings))
    run_ppo(ppo_on_one_base(tmp_path / "two passes", noptepochs=2, **settings))
    (limited,), (plain,) = metrics_of(tmp_path / "limit"), metrics_of(tmp_path / "two passes")
    assert limited.pop("ppo/optimizer_steps") == 2 and limited == plain
    assert largest_difference(trained(tmp_path / "limit"), trained(tmp_path / "two passes")) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cliprange_high": -0.1}, "--cliprange_high -0.1: must be at least 0"),
        ({"dual_clip": 1.0}, "--dual_clip 1.0: must be above 1"),
        ({"entropy_coef": -0.1}, "--entropy_coef -0.1: must be at least 0"),
        ({"advantage_clip": 0.0}, "--advantage_clip 0.0: must be above 0"),
        ({"importance_correction": "truncated", "importance_cap": 0.9}, "--importance_cap 0.9: must be at"),
        ({"importance_cap": 3.0}, "--importance_cap 3.0 with --importance_correction none"),
        ({"update_kl_limit": -1.0}, "--update_kl_limit -1.0: must be above 0"),
    ],
)
def test_ranges_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        LossArguments(**settings)
