"""An engine that samples otherwise than the model that trains: numbers of a step, warnings, and whole runs."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.ppo.engine_difference import EngineWatch, engine_metrics
from llava_rlhf.ppo.guards import Guard, NonFiniteError
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.policy_objective import MicroBatch, PolicyObjective, StepTotals
from llava_rlhf.runs.metrics import NOTABLE_ENGINE_KL, meaning_of, one_line
from tests.llava_rlhf.ppo.test_reward_shaping import LOG_PROBS, MASK, experience
from tests.support.off_policy import run_off_policy, use_warm_engine
from tests.support.ppo_settings import PPO_WITH_STATE
from tests.support.ppo_world import assemble, largest_difference, metrics_of, run_ppo, trained

NAN = float("nan")
CORRECTED = LossArguments(importance_correction="truncated", importance_cap=1.25)


def of_ratios(*ratios):
    """The two responses, of 4 and of 2 tokens, with these p / q."""
    padded = torch.full((2, 4), NAN)
    padded[MASK] = torch.tensor(ratios).log()
    return replace(experience(), engine_log_probs=LOG_PROBS - padded)


def test_numbers_of_a_step_by_hand():
    rows = of_ratios(1.0, 2.0, 0.5, 1.0, 1.05, 1.06)
    found = engine_metrics(Accelerator(cpu=True), rows, CORRECTED)
    logs = [math.log(ratio) for ratio in (1.0, 2.0, 0.5, 1.0, 1.05, 1.06)]
    kl = [2 - 1 - math.log(2), 0.5 - 1 - math.log(0.5), 0.05 - math.log(1.05), 0.06 - math.log(1.06)]
    assert found == pytest.approx(
        {
            "engine/log_ratio": sum(logs) / 6,
            "engine/kl": sum(kl) / 6,
            "engine/difference_p99": math.log(2),
            "engine/difference_max": math.log(2),
            "engine/tokens_off": 2 / 6,
            # 1 · 2 · .5 · 1 = 1 is alike, 1.05 · 1.06 = 1.113 is not.
            "engine/rows_off": 1 / 2,
            "engine/weight_mean": (1 + 1.25 + 0.5 + 1 + 1.05 + 1.06) / 6,
            "engine/weight_capped": 1 / 6,
        },
        rel=1e-5,
    )
    assert all(meaning_of(name) for name in found)
    plain = engine_metrics(Accelerator(cpu=True), rows, LossArguments())
    assert plain == {name: value for name, value in found.items() if "weight" not in name}


def test_the_last_hundredth_is_left_out_of_p99():
    ratio = torch.arange(1, 201).reshape(2, 100) / 1000
    rows = replace(experience(), response_mask=torch.ones(2, 100, dtype=torch.bool))
    rows = replace(rows, log_probs=torch.zeros(2, 100), engine_log_probs=ratio)
    found = engine_metrics(Accelerator(cpu=True), rows, LossArguments())
    assert found["engine/difference_p99"] == pytest.approx(0.198)
    assert found["engine/difference_max"] == pytest.approx(0.2)


def test_a_token_that_an_engine_holds_impossible_leaves_numbers_that_json_has():
    rows = of_ratios(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    rows.engine_log_probs[0, 1] = -9999.0
    found = engine_metrics(Accelerator(cpu=True), rows, CORRECTED)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["engine/difference_max"] == 9997 and found["engine/weight_mean"] == pytest.approx(6.25 / 6)


def test_the_local_engine_has_no_numbers_and_can_not_be_corrected():
    accelerator = Accelerator(cpu=True)
    assert engine_metrics(accelerator, experience(), LossArguments()) == {}
    with pytest.raises(ValueError, match="the engine gave no log-probabilities of its own"):
        engine_metrics(accelerator, experience(), CORRECTED)
    with pytest.raises(ValueError, match="--importance_correction truncated with --rollout_engine local"):
        CORRECTED.check_engine("local")
    CORRECTED.check_engine("vllm")
    LossArguments().check_engine("local")


def test_an_engine_without_a_number_is_refused(tmp_path):
    rows = of_ratios(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    rows.log_probs, rows.ref_log_probs = torch.zeros(2, 4), torch.zeros(2, 4)
    rows.engine_log_probs = torch.zeros(2, 4)
    guard = Guard(Accelerator(cpu=True), tmp_path)
    guard.check_experience(rows, 0)
    rows.engine_log_probs[1, 0] = -math.inf
    with pytest.raises(NonFiniteError, match="a log-probability of the engine is"):
        guard.check_experience(rows, 0)


def watched(kls, watch=None):
    watch, warned = watch or EngineWatch(), []
    logger = logging.getLogger("llava_rlhf.ppo.engine_difference")
    handler = logging.Handler()
    handler.emit = lambda record: warned.append(record.getMessage())
    logger.addHandler(handler)
    try:
        for step, kl in enumerate(kls, 1):
            watch.look(step, {"engine/kl": kl, "engine/tokens_off": 0.25}, LossArguments())
    finally:
        logger.removeHandler(handler)
    return warned


def test_a_warning_once_and_again_when_it_has_doubled():
    assert watched([1e-9, 9e-4, NOTABLE_ENGINE_KL]) == []
    first, second = watched([1e-4, 0.01, 0.012, 0.0199, 0.021, 0.03])
    assert first.startswith("step 2: ") and "KL 0.01 nats a token (engine/kl; above 0.002), 25%" in first
    assert second.startswith("step 5: ") and "twice what it was at the last warning" in second
    assert EngineWatch().look(1, {}, LossArguments()) is None, "the local engine has no such number"


def test_a_resumed_run_does_not_warn_again(tmp_path):
    lines = [{"step": 1, "engine/kl": 0.01}, {"step": 2}, {"step": 3, "engine/kl": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    watch = EngineWatch()
    watch.begin(tmp_path, 2)
    (warning,) = watched([0.015, 0.03], watch)
    assert warning.startswith("step 2: ") and "above 0.02, twice" in warning


def test_the_printed_line_shows_it_where_it_is_notable():
    metrics = {"objective/lr": 0.1, "engine/kl": NOTABLE_ENGINE_KL}
    assert "engine" not in one_line(1, 2, metrics)
    assert "engine KL 0.013" in one_line(1, 2, metrics | {"engine/kl": 0.013})


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
def test_where_both_agree_the_loss_is_the_plain_one_bit_for_bit(normalization):
    """KL in the loss and an entropy beside the surrogate; another engine's weights fall on all but the entropy."""
    generator = torch.Generator().manual_seed(7)
    new, old, reference, advantages, entropy = torch.randn(5, 2, 4, generator=generator)

    def loss_and_gradient(engine, **settings):
        loss = LossArguments(
            kl_placement="loss", entropy_coef=0.1, loss_normalization=normalization, **settings
        )
        objective = PolicyObjective(0.2, loss, KLEstimator.K3, 8)
        moved = new.clone().requires_grad_()
        batch = MicroBatch(
            *(None, None, MASK, MASK, old, reference, entropy, None, advantages, None),
            importance=objective.importance(old, engine, MASK),
        )
        total = objective.of(batch, moved, entropy, StepTotals(MASK.sum(), torch.tensor(2), 0.3, False)).sum
        return total.detach(), torch.autograd.grad(total, moved)[0]

    truncated = {"importance_correction": "truncated", "importance_cap": 3.0}
    plain = loss_and_gradient(None)
    for number, same in zip(plain, loss_and_gradient(old.masked_fill(~MASK, NAN), **truncated), strict=True):
        assert torch.equal(number, same)
    # With surrogate and KL together S and entropy E the loss is w S − E, and E is a constant here.
    doubled, gradient = loss_and_gradient(old - math.log(2), **truncated)
    nothing, no_gradient = loss_and_gradient(old + 50.0, **truncated)
    torch.testing.assert_close(gradient, 2 * plain[1])
    assert no_gradient.abs().max() < 1e-12 and nothing != 0
    torch.testing.assert_close(doubled, 2 * plain[0] - nothing)


def test_columns_that_count_without_a_token_weigh_one(command):
    """Where padding counts (`--numerics published`), nobody drew it."""
    parts = assemble(command(numerics="published", response_len=12), spread=0.05)
    use_warm_engine(parts.trainer.collector, 1.5)
    rows = parts.collect([0, 2, 3, 5])
    assert rows.engine_log_probs.shape == rows.log_probs.shape == (4, 12)
    assert not rows.response_mask.all() and rows.counted.all()
    objective = PolicyObjective(0.2, CORRECTED, KLEstimator.K1, 12)
    weights = objective.importance(rows.log_probs, rows.engine_log_probs, rows.response_mask)
    assert (weights[~rows.response_mask] == 1).all() and (weights[rows.response_mask] != 1).any()


@pytest.fixture(scope="module")
def corrected_run(ppo_on_one_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo") / "corrected"
    run_off_policy(ppo_on_one_base(folder, **PPO_WITH_STATE), 1.4, "truncated", 1.3)
    return folder


def test_resumed_it_is_the_same_bit_for_bit(ppo_on_one_base, corrected_run, tmp_path, caplog):
    shutil.copytree(corrected_run / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copy(corrected_run / "metrics.jsonl", tmp_path)
    run_off_policy(ppo_on_one_base(tmp_path, **PPO_WITH_STATE), 1.4, "truncated", 1.3)
    assert largest_difference(trained(tmp_path), trained(corrected_run)) == 0
    assert metrics_of(tmp_path) == metrics_of(corrected_run)
    assert any(line["engine/weight_capped"] > 0 for line in metrics_of(tmp_path))
    assert not [record for record in caplog.records if "engine draws answers" in record.getMessage()]


def test_the_critic_learns_the_same_and_the_policy_another_thing(ppo_on_one_base, tmp_path):
    settings = {"max_steps": 1, "step_batch_size": 8}
    for name, correction in (("plain", "none"), ("corrected", "truncated")):
        run_off_policy(ppo_on_one_base(tmp_path / name, **settings), 1.4, correction)
    plain, corrected = (trained(tmp_path / name) for name in ("plain", "corrected"))
    differing = {name for name in plain if not torch.equal(plain[name], corrected[name])}
    assert differing and all(name.startswith("lora_policy") for name in differing)
    (one,), (other,) = metrics_of(tmp_path / "plain"), metrics_of(tmp_path / "corrected")
    assert one["ppo/loss/value"] == other["ppo/loss/value"]
    assert one["ppo/loss/policy"] != other["ppo/loss/policy"]


def test_micro_batches_change_nothing(ppo_on_one_base, tmp_path):
    settings = {"max_steps": 1, "step_batch_size": 8}
    for size in (8, 1):
        argv = ppo_on_one_base(tmp_path / str(size), step_per_device_batch_size=size, **settings)
        run_off_policy(argv, 1.4, "truncated", 1.3)
    assert largest_difference(trained(tmp_path / "8"), trained(tmp_path / "1")) < 1e-6


def test_an_engine_that_agrees_is_as_the_policy_itself(ppo_on_one_base, tmp_path):
    """Its numbers are taken in other batches, so that they may differ in the last digit."""
    settings = {"max_steps": 1, "step_batch_size": 8}
    run_off_policy(ppo_on_one_base(tmp_path / "engine", **settings), 1.0, "truncated")
    run_ppo(ppo_on_one_base(tmp_path / "local", **settings))
    assert largest_difference(trained(tmp_path / "engine"), trained(tmp_path / "local")) < 1e-6
    (line,), (local,) = metrics_of(tmp_path / "engine"), metrics_of(tmp_path / "local")
    assert line["engine/kl"] < 1e-9 and line["engine/difference_max"] < 1e-4
    assert line["engine/tokens_off"] == line["engine/rows_off"] == line["engine/weight_capped"] == 0
    assert not [name for name in local if name.startswith("engine/")]
