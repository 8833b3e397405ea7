"""Other families than LLaVA in one process and two, under DeepSpeed, and resumed: by the same trainers, on other machinery.

All runs of two processes with one engine go through all families in the same pair, as starting one costs more than they do.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from llava_rlhf.runs.checkpoints import checkpoint_folder, complete_checkpoints
from models.base_files import read_family
from tests.distributed.comparing import assert_same_metrics, assert_same_roles, metrics_of
from tests.distributed.in_turn import write_turns
from tests.distributed.launching import ROOT
from tests.distributed.processes import POLICY_INIT, PPO, REWARD, run_in_processes
from tests.reliability.same_runs import content, files_of
from tests.support.tiers import tiered
from tests.support.tiny_data import TinyData, policy_command, ppo_command, reward_command
from tests.support.tiny_families import QUICK_FAMILIES, TINY_FAMILIES

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

Case = tuple[str, str, str]
PROGRAMS = (POLICY_INIT, REWARD, PPO)
FAMILIES = {family.model_type: family for family in TINY_FAMILIES if family.model_type != "llava"}
# Of an engine, the programs that go through all families with it. One of them stands for PPO in DeepSpeed's: pictures of
# different numbers of rows, positions of three dimensions, features of deeper layers.
ENGINES = {"ddp": PROGRAMS, "zero2": (REWARD,), "zero3": (POLICY_INIT,)}
CASES = [
    *((family, program, engine) for engine in ENGINES for program in ENGINES[engine] for family in FAMILIES),
    ("qwen3_vl", PPO, "zero2"),
]
DAILY = [("qwen2_5_vl", PPO, "ddp"), ("llava_next", POLICY_INIT, "zero3"), ("qwen2_5_vl", REWARD, "zero2")]
NAMES = ("family", "program", "engine")
# Ten times what the slowest took, under ZeRO-3 on two cores beside other jobs; one more for starting the processes.
SECONDS_A_RUN = 120
LIMITS = {"version": "chat", "query_len": 300, "model_max_length": 900}
# Plain descent, so that a weight moves by its gradient.
TRAINER = {**LIMITS, "response_len": 60, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9}
# Gradients so small that AdamW's epsilon counts beside those near 0: else one whose sign is rounding moves a weight.
PPO_STEPS = {**LIMITS, "response_len": 8, "step_batch_size": 8, "noptepochs": 2, "max_grad_norm": 0.01}


@dataclass(frozen=True)
class Runs:
    """Run folders of two steps, of all families; each run is made once.

    Attributes:
        root, data: where they are, and what is trained on.
        asked: cases (family, program, engine) that this session tests, which may have been told to take some only.
        failed: cases that the pair of processes of their engine did not finish → what it failed with.
    """

    root: Path
    data: TinyData
    asked: frozenset[Case]
    failed: dict[Case, str] = field(default_factory=dict)

    def base(self, family: str) -> Path:
        """A tiny base."""
        folder = self.root / family / "base"
        return folder if folder.exists() else FAMILIES[family].save(folder)

    def command(self, family: str, program: str, folder: Path, processes: int = 1) -> list[str]:
        """Four dialogues at once in one process, one at a time in two: then one often has a picture and the other has none.

        Pairs two at a time, as the centring term is of all pairs that are seen at once.
        """
        base = self.base(family)
        alone = {"skip_invalid": not read_family(base).several_pictures}
        if program == PPO:
            start = self.alone(family, POLICY_INIT), self.alone(family, REWARD)
            rows = {"rollout_per_device_batch_size": 4, "step_per_device_batch_size": 4 // processes}
            return ppo_command(self.data, base, *start, folder, **PPO_STEPS, **alone, **rows)
        make = policy_command if program == POLICY_INIT else reward_command
        size, batches = (1, 2) if program == POLICY_INIT and processes == 2 else (4 // processes, 1)
        rows = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches}
        return make(self.data, base, folder, **TRAINER, **alone, **rows, ddp_timeout=60)

    def alone(self, family: str, program: str, resumed: bool = False) -> Path:
        """In this process; `resumed` behind the first step of the run that was not stopped."""
        folder = self.root / family / f"{program}{'-resumed' if resumed else ''}"
        if not folder.exists():
            if resumed:
                whole = self.alone(family, program)
                shutil.copytree(whole / "checkpoint-1", folder / "checkpoint-1")
                shutil.copy(whole / "metrics.jsonl", folder)
            module = import_module(program)
            module.run(module.prepare(self.command(family, program, folder)))
        return folder

    def in_two(self, *case: str) -> Path:
        """The run folder of a case (family, program, engine); all of its engine are made by one pair of processes.

        Raises:
            RuntimeError: what the pair failed with, for each case that it had not finished.
        """
        family, program, engine = case
        folder = self.root / engine
        if not folder.exists():
            cases = [other for other in CASES if other[-1] == engine and other in self.asked]
            try:
                self._run_pair(cases, folder)
            except RuntimeError as error:
                left = [other for other in cases if not finished(folder / other[0] / other[1])]
                self.failed.update(dict.fromkeys(left or cases, str(error)))
        if case in self.failed:
            raise RuntimeError(self.failed[case])
        return folder / family / program

    def _run_pair(self, cases: list[Case], folder: Path) -> None:
        turns = [
            (program, self.command(family, program, folder / family / program, 2))
            for family, program, _ in cases
        ]
        folder.mkdir()
        config = None if folder.name == "ddp" else ROOT / "scripts" / f"{folder.name}.json"
        argv = write_turns(folder / "turns.json", turns, config)
        run_in_processes("tests.distributed.in_turn", argv, 2, folder, SECONDS_A_RUN * (1 + len(turns)))


def finished(run: Path) -> bool:
    """Whether the state after the second and last step is there, whole."""
    return run.is_dir() and checkpoint_folder(run, 2) in complete_checkpoints(run)


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, data) -> Runs:
    found = (item.callspec.params for item in request.session.items if hasattr(item, "callspec"))
    asked = frozenset(tuple(params[name] for name in NAMES) for params in found if params.keys() >= {*NAMES})
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Runs(tmp_path_factory.mktemp("families"), data, asked)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(NAMES, tiered(CASES, daily=DAILY))
def test_two_processes_are_as_one(runs, family, program, engine):
    one, two = runs.alone(family, program), runs.in_two(family, program, engine)
    assert_same_roles(one, two)
    for step in (1, 2):
        first, second = (metrics_of(folder, step) for folder in (one, two))
        if engine != "ddp":  # an engine knows the norm of all weights only
            first, second = (
                {name: value for name, value in line.items() if "grad_norm" not in name}
                for line in (first, second)
            )
        if program == PPO:  # the clipped loss is a difference of much larger terms
            loss = first.pop("ppo/loss/policy")
            assert second.pop("ppo/loss/policy") == pytest.approx(loss, abs=1e-5)
        assert_same_metrics(first, second)


def test_the_processes_have_other_pictures(data):
    """What makes the test above able to fail, or under ZeRO-3 to wait for ever."""
    rows = json.loads(data.dialogues.read_text())
    pictures = [len(row["image"]) if isinstance(row.get("image"), list) else "image" in row for row in rows]
    assert set(pictures) == {0, 1, 2}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("family", tiered(FAMILIES, daily=QUICK_FAMILIES))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(runs, family, program):
    whole, resumed = runs.alone(family, program), runs.alone(family, program, resumed=True)
    assert metrics_of(resumed, 2) == metrics_of(whole, 2)
    ours, theirs = (files_of(complete_checkpoints(folder)[-1]) for folder in (resumed, whole))
    assert ours.keys() == theirs.keys() and len(ours) > 3
    assert [name for name in sorted(ours) if content(ours[name]) != content(theirs[name])] == []
