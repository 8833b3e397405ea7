"""DeepSpeed on two CPU processes: the same adapters as plain DDP, checkpoints without the frozen base, exact resume."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from llava_rlhf.supervised.objective_arguments import DPO
from models.heads import MLP
from tests.distributed.comparing import assert_same_roles, metrics_of, weights_in
from tests.distributed.processes import POLICY_INIT, PPO, REWARD, run_in_processes
from tests.support.broken_models import with_broken_weight
from tests.support.ppo_settings import ANOTHER_LOSS
from tests.support.reward_models import moved, with_mlp_head
from tests.support.tiers import tiered
from tests.support.tiny_data import dpo_command, policy_command, ppo_command, reward_command
from tests.support.tiny_models import tiny_tokenizer

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPTS = Path(__file__).parents[2] / "scripts"
TRAINER_STEPS = {"per_device_train_batch_size": 2, "max_steps": 2, "lr_scheduler_type": "constant"}
PPO_STEPS = {
    "rollout_per_device_batch_size": 4,
    "step_batch_size": 8,
    "step_per_device_batch_size": 2,
    "noptepochs": 2,
    "max_steps": 2,
    "response_len": 24,
    "max_grad_norm": 0.05,  # below the norms of both roles, which differ
}

# More that PPO knows behind a kind of run.
VARIANTS = {
    "published": {"numerics": "published"},
    "another loss": ANOTHER_LOSS,
    "in its own units": {"normalize_returns": True, "value_learning_rate": 1e-4, "value_sees_facts": True},
}


# Of every engine a program in the daily suite.
ENGINES = [
    (POLICY_INIT, "zero2"),
    (POLICY_INIT, "zero3"),
    (REWARD, "zero2"),
    (REWARD, "zero3"),
    (PPO, "zero2"),
]
DAILY = [(POLICY_INIT, "zero3"), (PPO, "zero2")]
ENSEMBLE = "ensemble"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_base, data, policy_folder, reward_folder):
    """A function (program, "ddp" | "zero2" | "zero3") → run folder of two steps; each combination runs once.

    PPO also knows each of `VARIANTS` behind them, as in "zero2 published", and an ensemble; the reward model, the other head;
    the policy, preferences.
    """
    root = tmp_path_factory.mktemp("deepspeed")
    members = [moved(reward_folder, root / "moved", seed=1), with_mlp_head(reward_folder, root / "mlp")]

    def command(program: str, kind: str, folder: Path) -> list[str]:
        kind, _, variant = kind.partition(" ")
        config = {} if kind == "ddp" else {"deepspeed": SCRIPTS / f"{kind}.json"}
        config |= VARIANTS.get(variant, {})
        if variant == ENSEMBLE:
            config |= {"more_reward_models": members, "ensemble_beta": 0.5}
        if variant == MLP:
            config |= {"reward_head": MLP}
        config = {**PPO_STEPS, **config} if program == PPO else config
        if variant == DPO:
            return dpo_command(
                data, tiny_base, folder, policy_model_name_or_path=policy_folder, **TRAINER_STEPS, **config
            )
        if program == POLICY_INIT:
            return policy_command(data, tiny_base, folder, **TRAINER_STEPS, **config)
        if program == REWARD:
            return reward_command(data, tiny_base, folder, **TRAINER_STEPS, **config)
        return ppo_command(data, tiny_base, policy_folder, reward_folder, folder, **config)

    def run(program: str, kind: str, resumed: bool = False) -> Path:
        folder = root / f"{program}-{kind}{'-resumed' if resumed else ''}"
        if not folder.exists():
            if resumed:
                shutil.copytree(run(program, kind) / "checkpoint-1", folder / "checkpoint-1")
            run_in_processes(program, command(program, kind, folder), 2, folder)
        return folder

    return run


@pytest.mark.parametrize(("program", "kind"), tiered(ENGINES, daily=DAILY))
def test_roles_equal_those_of_ddp(runs, program, kind):
    assert_same_roles(runs(program, "ddp"), runs(program, kind))


@pytest.mark.parametrize(("program", "kind"), tiered(ENGINES, daily=DAILY))
def test_gradients_are_as_long_as_those_of_ddp(runs, program, kind):
    """The norms before clipping, and the losses: neither AdamW nor a clipped step shows the scale of a gradient."""
    for step in (1, 2):
        plain, engine = (metrics_of(runs(program, one), step) for one in ("ddp", kind))
        # In PPO an engine knows the norm of all weights only.
        names = {name for name in plain.keys() & engine.keys() if "grad_norm" in name or "loss" in name}
        assert any(name.endswith("grad_norm") for name in names)
        # Sums take another order under an engine; a factor left out would halve these numbers.
        assert {name: engine[name] for name in names} == pytest.approx(
            {name: plain[name] for name in names}, rel=1e-3, abs=1e-5
        )


@pytest.mark.parametrize("engine", tiered(["zero2", "zero3"], daily=["zero2"]))
def test_preference_optimisation_equals_that_of_ddp_and_goes_on(runs, engine):
    """Policy and frozen reference stand on one base, whatever the engine does with it."""
    kind = f"{engine} {DPO}"
    assert_same_roles(runs(POLICY_INIT, f"ddp {DPO}"), runs(POLICY_INIT, kind))
    first, second = (runs(POLICY_INIT, kind, resumed) / "checkpoint-2" for resumed in (False, True))
    assert_same_roles(first, second)


@pytest.mark.nightly
def test_the_joint_clip_of_published_numerics_equals_that_of_ddp(runs):
    assert_same_roles(runs(PPO, "ddp published"), runs(PPO, "zero2 published"))


@pytest.mark.nightly
def test_another_loss_equals_that_of_ddp(runs):
    plain, engine = (runs(PPO, f"{kind} another loss") for kind in ("ddp", "zero2"))
    assert_same_roles(plain, engine)
    for step in (1, 2):
        one, other = (metrics_of(folder, step) for folder in (plain, engine))
        for name in ("ppo/optimizer_steps", "response/masked", "ppo/loss/kl", "ppo/policy/entropy"):
            # A KL near 0 is the difference of log-probabilities, whose last digits an engine's sums change.
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name


@pytest.mark.nightly
def test_a_critic_in_its_own_units_equals_that_of_ddp(runs):
    """Its head is rewritten between two optimizer steps."""
    kind = "zero2 in its own units"
    assert_same_roles(runs(PPO, "ddp in its own units"), runs(PPO, kind))
    assert_same_roles(runs(PPO, kind) / "checkpoint-2", runs(PPO, kind, resumed=True) / "checkpoint-2")


@pytest.mark.nightly
def test_an_ensemble_equals_that_of_ddp_and_goes_on(runs):
    """No reward model is trained or saved, whatever the engine casts its adapter to."""
    kind = f"zero2 {ENSEMBLE}"
    assert_same_roles(runs(PPO, f"ddp {ENSEMBLE}"), runs(PPO, kind))
    assert_same_roles(runs(PPO, kind) / "checkpoint-2", runs(PPO, kind, resumed=True) / "checkpoint-2")
    plain, engine = (metrics_of(runs(PPO, one), 1) for one in (f"ddp {ENSEMBLE}", kind))
    # Of scores that an engine sums in another order; members left out would change it by its size.
    assert engine["objective/reward_spread"] == pytest.approx(plain["objective/reward_spread"], rel=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("engine", tiered(["zero2", "zero3"], daily=["zero2"]))
def test_a_reward_head_of_two_layers_equals_that_of_ddp(runs, engine):
    assert_same_roles(runs(REWARD, f"ddp {MLP}"), runs(REWARD, f"{engine} {MLP}"))


@pytest.mark.parametrize(
    ("program", "kind"), tiered([case for case in ENGINES if case[0] != REWARD], daily=DAILY[:1])
)
def test_a_checkpoint_holds_each_trained_weight_once_and_no_base(runs, program, kind):
    checkpoint = runs(program, kind) / "checkpoint-1"
    roles = sum(len(weights) for weights in weights_in(checkpoint).values())
    files = sorted(checkpoint.rglob("*model_states.pt"))
    assert files
    for file in files:
        state = torch.load(file, weights_only=False)
        assert len(state["module"]) == roles
        assert not any("vision_tower" in name or "embed_tokens" in name for name in state["module"])
        assert not state["frozen_param_fragments"]


@pytest.mark.parametrize(
    ("program", "kind"), tiered([case for case in ENGINES if case != (REWARD, "zero3")], daily=DAILY)
)
def test_resume_equals_an_uninterrupted_run(runs, program, kind):
    whole, resumed = runs(program, kind), runs(program, kind, resumed=True)
    steps = [json.loads(line)["step"] for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert set(steps) == {2}  # step 1 came from the checkpoint
    assert_same_roles(whole / "checkpoint-2", resumed / "checkpoint-2")


@pytest.mark.nightly
@pytest.mark.parametrize("program", tiered([POLICY_INIT, REWARD, PPO], daily=[PPO]))
def test_bfloat16_under_zero_2(program, tmp_path, data, tiny_base, policy_folder, reward_folder):
    """As published: DeepSpeed casts every weight, the heads too. Policy init also accumulates and evaluates."""
    common = {"deepspeed": SCRIPTS / "zero2.json", "bf16": True}
    if program == PPO:
        command = ppo_command(data, tiny_base, policy_folder, reward_folder, tmp_path, **PPO_STEPS, **common)
    else:
        make = policy_command if program == POLICY_INIT else reward_command
        evaluation = {
            "eval_size": 4,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "gradient_accumulation_steps": 2,
        }
        steps = {**TRAINER_STEPS, "per_device_train_batch_size": 1, **evaluation}
        command = make(data, tiny_base, tmp_path, **steps, **common)
    run_in_processes(program, command, 2, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [value for line in lines for name, value in line.items() if "loss" in name]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.nightly
def test_zero_3_with_unequal_numbers_of_chunks_and_images(tmp_path, data, tiny_base):
    """One dialogue a process: 5 to 8 supervised tokens in chunks of 3, and rows with no image, one or two."""
    steps = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 4}
    for kind, program in (("ddp", POLICY_INIT), ("zero3", "tests.distributed.small_chunks")):
        config = {} if kind == "ddp" else {"deepspeed": SCRIPTS / "zero3.json", "ddp_timeout": 60}
        argv = policy_command(data, tiny_base, tmp_path / kind, **steps, **config, save_strategy="no")
        run_in_processes(program, argv, 2, tmp_path / kind)
    assert_same_roles(tmp_path / "ddp", tmp_path / "zero3")


@pytest.mark.parametrize(
    ("kind", "number_format"),
    tiered([("ddp", {}), ("zero2", {}), ("zero2", {"bf16": True})], daily=[("zero2", {})]),
)
def test_a_gradient_that_overflows_in_ppo(
    kind, number_format, tmp_path, data, tiny_base, policy_folder, reward_folder
):
    """Both processes stop, and DeepSpeed's engine has not moved a weight either: nothing is written apart."""
    adapter = "lora_policy/adapter_model.safetensors"
    broken = with_broken_weight(policy_folder, tmp_path / "broken", adapter, "lora_A", lambda w: w.mul_(1e30))
    with_broken_weight(broken, broken, adapter, "lora_B", lambda w: w.zero_())
    config = {} if kind == "ddp" else {"deepspeed": SCRIPTS / f"{kind}.json"}
    run = tmp_path / "run"
    argv = ppo_command(data, tiny_base, broken, reward_folder, run, **PPO_STEPS, **config, **number_format)
    with pytest.raises(RuntimeError, match="step 1: the gradient is not finite"):
        run_in_processes(PPO, argv, 2, run, stop_at_failure=False, timeout_s=100)
    assert sorted(path.name for path in run.glob("nonfinite-step1-*")) == [
        f"nonfinite-step1-process{rank}.json" for rank in range(2)
    ]
    assert not list(run.glob("stopped-in-step-*")) and not list(run.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("program", "kind"),
    tiered(
        [(program, kind) for program in (POLICY_INIT, REWARD) for kind in ("ddp", "zero2", "zero3")],
        daily=[(POLICY_INIT, "zero3")],
    ),
)
def test_a_loss_of_one_process_stops_both(program, kind, tmp_path, data, tiny_base):
    """One row a process; a word that the base can't read is in few of them."""
    (token,) = tiny_tokenizer()("bird", add_special_tokens=False).input_ids
    base = with_broken_weight(
        tiny_base, tmp_path / "base", "model.safetensors", "embed_tokens", lambda w: w[token].fill_(math.inf)
    )
    config = {} if kind == "ddp" else {"deepspeed": SCRIPTS / f"{kind}.json"}
    run = tmp_path / "run"
    make = policy_command if program == POLICY_INIT else partial(reward_command, facts=False)
    argv = make(data, base, run, per_device_train_batch_size=1, max_steps=8, ddp_timeout=60, **config)
    with pytest.raises(RuntimeError, match=r"step \d: the loss is not finite"):
        run_in_processes(program, argv, 2, run, stop_at_failure=False, timeout_s=100)
    dumps = [json.loads(path.read_text()) for path in run.glob("nonfinite-step*-process*.json")]
    assert dumps and all("nan" in row["model_output"] for rows in dumps for row in rows)
