"""PPO under ZeRO-3, which divides the frozen bases: sampled by a whole copy, everything else is as with DDP.

All runs of two processes go through the same pair, as starting one costs more than they do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from llava_rlhf.runs.role_files import POLICY
from models.adapters import AdapterBank, AdapterSpec
from models.vlm import BaseSettings, load_base
from tests.distributed.comparing import assert_same_metrics, assert_same_roles, metrics_of, weights_in
from tests.distributed.in_turn import write_turns
from tests.distributed.launching import ROOT
from tests.distributed.processes import POLICY_INIT, PPO, REWARD, run_in_processes
from tests.reliability.same_runs import content, files_of
from tests.support.broken_models import with_broken_weight
from tests.support.ppo_settings import ANOTHER_LOSS
from tests.support.reward_models import moved, with_mlp_head
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command
from tests.support.tiny_families import TINY_FAMILIES

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

COPIED = "tests.distributed.copied_ppo"
QWEN = next(family for family in TINY_FAMILIES if family.model_type == "qwen2_5_vl")
PICTURES = {"version": "chat", "query_len": 300, "model_max_length": 900}
STEPS = {
    "rollout_per_device_batch_size": 4,
    "step_batch_size": 8,
    "step_per_device_batch_size": 2,
    "noptepochs": 2,
    "max_steps": 2,
    "response_len": 24,
    "max_grad_norm": 0.05,  # below the norms of both roles, which differ
    "logits_chunk_size": 5,  # so that processes need unequal numbers of vocabulary projections
    "ddp_timeout": 240,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    # One row at once, of which some have no picture, and rows of unequal length in the reward model's passes.
    "row by row": {
        "rollout_per_device_batch_size": 1,
        "reward_model_per_device_batch_size": 2,
        "tokens_per_micro_batch": 80,
        "gradient_checkpointing": True,
    },
    "published": {"numerics": "published"},
    "another loss": ANOTHER_LOSS,
    "in its own units": {"normalize_returns": True, "value_learning_rate": 1e-4, "value_sees_facts": True},
    "ensemble": {"ensemble_beta": 0.5},
    "sentences": {"reward_placement": "sentence", "reward_model_per_device_batch_size": 1},
    "two bases": {},
    "no critic": {"advantage_estimator": "rloo", "samples_per_prompt": 4},
    "qwen2_5_vl": {**PICTURES, "response_len": 8, "rollout_per_device_batch_size": 2, "max_grad_norm": 0.01},
}
ON_TWO_BASES = ("two bases", "no critic")
DAILY = ("plain", QWEN.model_type)
PARAMS = [case if case in DAILY else pytest.param(case, marks=pytest.mark.nightly) for case in CASES]


@dataclass(frozen=True)
class Runs:
    """Run folders of two steps; each run is made once.

    Attributes:
        root, data: where they are, and what is trained on.
        base, policy, reward: to start from.
        other_base: another one for the reward model.
        asked: cases that this session tests.
    """

    root: Path
    data: TinyData
    base: Path
    policy: Path
    reward: Path
    other_base: Path
    asked: tuple[str, ...]

    @property
    def config(self) -> Path:
        """As published, but that no weight is so small that every process keeps it."""
        path = self.root / "zero3.json"
        config = json.loads((ROOT / "scripts" / "zero3.json").read_text())
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path.write_text(json.dumps(config))
        return path

    def command(self, case: str, folder: Path, **changes: Any) -> list[str]:
        """The flags of a case."""
        settings = {**STEPS, **CASES[case], **changes}
        start = self.base, self.policy, self.reward
        if case == "ensemble":
            settings["more_reward_models"] = [self.root / "moved", self.root / "mlp"]
        if case in ON_TWO_BASES:
            start = self.base, self.policy, self.root / "other reward"
        if case == QWEN.model_type:
            start = self.root / "qwen", self.root / "qwen policy", self.root / "qwen reward"
        return ppo_command(self.data, *start, folder, **settings)

    def before(self) -> list[tuple[str, list[str]]]:
        """What some cases start from, made by the processes of DDP."""
        moved(self.reward, self.root / "moved", seed=1)
        with_mlp_head(self.reward, self.root / "mlp")
        base = QWEN.save(self.root / "qwen")
        limits = {**PICTURES, "response_len": 60}
        return [
            (REWARD, reward_command(self.data, self.other_base, self.root / "other reward")),
            (POLICY_INIT, policy_command(self.data, base, self.root / "qwen policy", **limits)),
            (REWARD, reward_command(self.data, base, self.root / "qwen reward", **limits)),
        ]

    def of(self, backend: str) -> Path:
        """Below it a run folder of each case, with DDP ("ddp") or ZeRO-3 ("zero3"), in two processes."""
        folder = self.root / backend
        if not folder.exists():
            if backend == "zero3":
                self.of("ddp")
            program = PPO if backend == "ddp" else COPIED
            turns = self.before() if backend == "ddp" else []
            turns += [(program, self.command(case, folder / case)) for case in self.asked]
            self._in_turn(folder, turns, None if backend == "ddp" else self.config)
        return folder

    def resumed(self) -> Path:
        """As `of("zero3")`, behind the first step of each."""
        folder = self.root / "resumed"
        if not folder.exists():
            whole = self.of("zero3")
            for case in self.asked:
                shutil.copytree(whole / case / "checkpoint-1", folder / case / "checkpoint-1")
                shutil.copy(whole / case / "metrics.jsonl", folder / case)
            turns = [(COPIED, self.command(case, folder / case)) for case in self.asked]
            self._in_turn(folder, turns, self.config)
        return folder

    def in_processes(self, processes: int) -> Path:
        """The plain case under ZeRO-3 in another number of processes."""
        folder = self.root / f"{processes} processes"
        if not folder.exists():
            share = {"rollout_per_device_batch_size": 8 // processes}
            argv = self.command("plain", folder, deepspeed=self.config, **share)
            run_in_processes(COPIED, argv, processes, folder)
        return folder

    def _in_turn(self, folder: Path, turns: list[tuple[str, list[str]]], config: Path | None) -> None:
        folder.mkdir(exist_ok=True)
        argv = write_turns(folder / "turns.json", turns, config)
        run_in_processes("tests.distributed.in_turn", argv, 2, folder, timeout_s=120 + 120 * len(turns))


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, data, tiny_base, policy_folder, reward_folder, tiny_reward_base) -> Runs:
    found = (item.callspec.params for item in request.session.items if hasattr(item, "callspec"))
    asked = {"plain", *(params["case"] for params in found if "case" in params)}
    start = data, tiny_base, policy_folder, reward_folder, tiny_reward_base
    return Runs(tmp_path_factory.mktemp("zero3"), *start, tuple(case for case in CASES if case in asked))


def without_norms(line: Mapping[str, float]) -> dict[str, float]:
    """An engine knows the norm of all weights only."""
    return {name: value for name, value in line.items() if not name.startswith("ppo/loss/grad_norm_")}


def assert_same(one: Path, other: Path) -> None:
    """Weights to 1e-5, metrics of both steps to 1e-5 of their size."""
    assert_same_roles(one, other)
    for step in (1, 2):
        first, second = (without_norms(metrics_of(folder, step)) for folder in (one, other))
        # The clipped loss is a difference of much larger terms: advantages of rloo lie around 100.
        loss = first.pop("ppo/loss/policy")
        assert second.pop("ppo/loss/policy") == pytest.approx(loss, abs=1e-4)
        # Summed over parts of other sizes, in float32.
        norm = first.pop("ppo/loss/grad_norm")
        assert second.pop("ppo/loss/grad_norm") == pytest.approx(norm, rel=1e-4)
        assert_same_metrics(first, second)


@pytest.mark.parametrize("case", PARAMS)
def test_two_processes_are_as_those_of_ddp(runs, case):
    assert_same(runs.of("ddp") / case, runs.of("zero3") / case)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.nightly), 4])
def test_one_process_and_four_are_as_two(runs, processes):
    assert_same(runs.of("ddp") / "plain", runs.in_processes(processes))


@pytest.mark.parametrize("case", PARAMS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(runs, case):
    whole, resumed = runs.of("zero3") / case, runs.resumed() / case
    assert metrics_of(resumed, 2) == metrics_of(whole, 2)
    ours, theirs = (files_of(folder / "checkpoint-2") for folder in (resumed, whole))
    assert ours.keys() == theirs.keys() and len(ours) > 3
    for name in sorted(ours):
        if ours[name].suffix == ".pt":  # a pickle, with the time in its archive
            assert_close(*(_states(file) for file in (ours[name], theirs[name])), rtol=0, atol=0)
        else:
            assert content(ours[name]) == content(theirs[name]), name


def _states(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of one of DeepSpeed's files."""
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            for key, part in value.items():
                walk(part, f"{name}.{key}")
        elif isinstance(value, (list, tuple)):
            for index, part in enumerate(value):
                walk(part, f"{name}.{index}")

    walk(torch.load(path, weights_only=False), "")
    assert found
    return found


def test_a_checkpoint_is_that_of_ddp_but_for_the_optimizer(runs):
    """Roles whole, each trained weight once, no base; the engine's own files hold no more than a share of the moments."""
    plain, divided = (runs.of(backend) / "plain" / "checkpoint-2" for backend in ("ddp", "zero3"))
    ours, theirs = (files_of(folder) for folder in (divided, plain))
    own = {name for name in ours if name.startswith("deepspeed")}
    assert ours.keys() - own == theirs.keys() - {"optimizer.safetensors"}
    trained = sum(tensor.numel() for role in weights_in(divided).values() for tensor in role.values())
    for rank in range(2):
        (file,) = (divided / "deepspeed").rglob(f"*_rank_{rank}_*optim_states.pt")
        moments = [tensor for name, tensor in _states(file).items() if name.endswith("exp_avg")]
        assert trained / 2 <= sum(tensor.numel() for tensor in moments) < trained / 2 * 1.1


def test_a_checkpoint_loads_without_deepspeed(runs):
    written = runs.of("zero3") / "plain" / "checkpoint-2" / POLICY
    vlm = load_base(runs.base, BaseSettings())
    bank = AdapterBank(vlm, {POLICY: AdapterSpec(written, trainable=False)})
    expected = weights_in(runs.of("ddp") / "plain" / "checkpoint-2" / POLICY)["adapter_model.safetensors"]
    assert_close(dict(bank.state_dict_of(POLICY)), expected, rtol=0, atol=1e-5)
    assert any(bool(tensor.any()) for name, tensor in expected.items() if "lora_B" in name)


@pytest.mark.nightly
def test_the_published_configuration_in_bfloat16(runs, tmp_path):
    """Small weights are kept by every process there; DeepSpeed casts all of them."""
    config = ROOT / "scripts" / "zero3.json"
    for case in ("plain", "in its own units"):
        argv = runs.command(case, tmp_path / case, deepspeed=config, bf16=True)
        run_in_processes(COPIED, argv, 2, tmp_path / case)
        lines = [metrics_of(tmp_path / case, step) for step in (1, 2)]
        assert all(torch.tensor(list(line.values())).isfinite().all() for line in lines)


def test_a_gradient_that_overflows_stops_all(runs, tmp_path):
    """Large advantages besides: of finite gradients DeepSpeed's norm is finite here, however large they are."""
    adapter = "lora_policy/adapter_model.safetensors"
    broken = with_broken_weight(runs.policy, tmp_path / "broken", adapter, "lora_A", lambda w: w.mul_(1e35))
    with_broken_weight(broken, broken, adapter, "lora_B", lambda w: w.zero_())
    run = tmp_path / "run"
    start = runs.base, broken, runs.reward, run
    large = {"whiten_advantages": False, "reward_scale": 1e6}
    argv = ppo_command(runs.data, *start, **STEPS, **large, deepspeed=runs.config)
    with pytest.raises(RuntimeError, match="step 1: the gradient is not finite"):
        run_in_processes(COPIED, argv, 2, run, stop_at_failure=False, timeout_s=100)
    assert not list(run.glob("stopped-in-step-*")) and not list(run.glob("checkpoint-*"))
