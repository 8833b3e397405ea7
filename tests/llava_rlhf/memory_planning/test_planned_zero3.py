"""Plans of PPO where another engine samples, and where DeepSpeed divides the base: against hand arithmetic."""

from __future__ import annotations

import json
import math

import pytest
import torch

from llava_rlhf import plan_memory
from llava_rlhf.memory_planning.bases import BaseSpec, weight_shapes
from llava_rlhf.memory_planning.knobs import MERGE, knobs_of
from llava_rlhf.memory_planning.plan import MemoryPlan
from llava_rlhf.memory_planning.weights import Zero, base_parts, gathered_parts
from tests.support.recorded_scripts import ROOT
from tests.support.tiny_models import TinyShape, tiny_llava

SERVED = ["--rollout_engine", "vllm", "--vllm_servers", "http://127.0.0.1:9"]
ZERO3 = ["--deepspeed", str(ROOT / "scripts" / "zero3.json")]
BF16 = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("planned") / "base"
    tiny_llava(TinyShape()).config.save_pretrained(base)
    return base


@pytest.fixture(scope="module")
def plan(folder):
    """(flags…) → the plan of PPO in four processes on a tiny base in bfloat16."""

    def planned(*flags: str) -> MemoryPlan:
        argv = ["train_rl_model", "--base_model_name", str(folder), "--bf16", "True", "--gpus", "4", *flags]
        ((_, found),) = plan_memory.prepare(argv).planned
        return found

    return planned


@pytest.fixture(scope="module")
def base(folder) -> BaseSpec:
    return BaseSpec.of("base", tiny_llava(TinyShape()).config, dtype=torch.bfloat16)


def held(plan: MemoryPlan, words: str) -> int:
    return sum(part.size for part in plan.held if words in part.name)


def test_who_does_not_sample_plans_no_sampling(plan):
    here, elsewhere = plan(), plan(*SERVED)
    sampling = {phase.name for phase in here.phases if phase.name.startswith("sampling")}
    assert len(sampling) == 2
    assert {phase.name for phase in here.phases} - {phase.name for phase in elsewhere.phases} == sampling
    more = {part for part in elsewhere.held if part not in here.held}
    assert {part.name.split(" of ")[0] for part in more} == {
        "tokens and numbers"
    }  # the engine's log-probabilities
    assert any("another engine" in note for note in elsewhere.notes)
    assert not any("keys and values" in note or "second copy" in note for note in elsewhere.notes)


def test_no_merged_copy_is_left_out_where_there_is_none(folder):
    def names(*flags: str) -> set[str]:
        argv = ["train_rl_model", "--base_model_name", str(folder), "--bf16", "True", *flags]
        (request,), _ = plan_memory.requests(argv)
        return {name for knob in knobs_of(request) for level in knob.levels for name in level}

    assert names() - names(*SERVED) == {MERGE}


def test_zero_3_divides_base_adapters_and_moments(plan, base):
    whole, divided = plan(*SERVED), plan(*SERVED, *ZERO3)
    numbers = sum(shape.numel() * count for shape, count in weight_shapes(base).values())
    parts = len(base_parts(base))
    assert held(whole, "base: ") == BF16 * numbers
    assert 0 <= held(divided, "base: ") - BF16 * numbers / 4 < parts
    trained = held(whole, "of policy and value") // 4  # float32 without DeepSpeed
    assert held(divided, "of policy and value") == BF16 * trained // 4
    assert held(divided, "float32 copy") == 4 * math.ceil(trained / 4)
    others = held(whole, "of reference and reward") // 4
    assert held(divided, "of reference and reward") == BF16 * others // 4
    assert held(divided, "fetched for use") == BF16 * numbers  # fewer than may be live at once


def test_at_least_the_largest_weight_is_fetched_and_at_most_all(base):
    weights = [shape.numel() * count for shape, count in weight_shapes(base).values()]
    largest = max(shape.numel() for shape, _ in weight_shapes(base).values())

    def fetched(live: int, kept: bool = False) -> int:
        (part,) = gathered_parts([base], Zero(3, 1, False, live), kept)
        return part.size // BF16

    assert fetched(1) == largest
    assert fetched(largest + 5) == largest + 5
    assert fetched(10**12) == fetched(1, kept=True) == sum(weights)
    assert gathered_parts([base], Zero(2, 1, False, 1)) == ()


def test_two_roles_that_keep_activations_of_one_base_keep_its_weights(plan, base, tmp_path):
    config = tmp_path / "zero3.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1}}))
    flags = [*SERVED, "--deepspeed", str(config), "--gradient_checkpointing"]
    weights = weight_shapes(base).values()
    assert held(plan(*flags, "True"), "fetched") == BF16 * max(shape.numel() for shape, _ in weights)
    assert held(plan(*flags, "False"), "fetched") == BF16 * sum(shape.numel() * n for shape, n in weights)


@pytest.mark.slow
def test_72_billion_weights_fit_on_eight_cards():
    """The released sizes: 147 GB in bfloat16, 18.4 of them on each card, and the 1.25 · 10⁹ numbers of the vocabulary head."""
    script = str(ROOT / "scripts" / "qwen2.5-vl-72b" / "train_rl_model.sh")
    ((_, found),) = plan_memory.prepare([script, "--picture", "640x640"]).planned
    assert held(found, "qwen2.5-vl-72b: ") == pytest.approx(2 * 73_410_777_344 / 8, rel=1e-6)
    assert held(found, "fetched for use") == BF16 * 152064 * 8192
    assert not any(phase.name.startswith("sampling") for phase in found.phases)


def test_a_policy_that_samples_from_parts_is_not_planned(plan):
    with pytest.raises(ValueError, match="the policy samples from whole weights here"):
        plan(*ZERO3)
