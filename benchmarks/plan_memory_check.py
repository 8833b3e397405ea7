"""Hold the memory planner against reality: every program runs two steps at several sizes, planned and measured.

    PYTHONPATH=. python benchmarks/plan_memory_check.py --output_file benchmarks/plan_memory_check.json [--device cuda]

Measured is what is allocated at once, at most, from the moment the base is loaded (its files pass through memory before).
On a GPU PyTorch's allocator says it. On a CPU each case runs twice, in processes of its own on one thread: with PyTorch's
profiler, which is told of every allocation and release of a tensor, those inside operations too; and without it, when the
peak of resident memory is read, less what was resident before the program ran (imports, and the data in the collator's
hands). There Python's objects, libraries' scratch memory and code pages come on top, which no plan knows.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import trange

from benchmarks.planned_world import World, write_world
from llava_rlhf.assembly import roles as assemble
from llava_rlhf.memory_planning.names import POLICY_INIT, PPO, REWARD_MODEL
from llava_rlhf.memory_planning.plan import MIB
from llava_rlhf.memory_planning.programs import plan_for, request_of
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.run_record import environment

STEPS = 2  # in the second the optimizer holds its moments from the start
ALLOWED = 0.15
LORA_R = 16


@dataclass(frozen=True)
class Case:
    """A program at some size: `rows` of `query` + `response` words at once, and flags that differ from the defaults."""

    program: str
    hidden: int
    layers: int
    rows: int
    query: int
    response: int
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """All of it in a line."""
        flags = " ".join(f"--{name} {value}" for name, value in self.flags.items())
        return f"{self.program} {self.hidden}×{self.layers}, {self.rows} rows of {self.query}+{self.response} {flags}"


CHECKPOINTED, BF16 = {"gradient_checkpointing": True}, {"bf16": True}
CASES = (
    Case(REWARD_MODEL, 256, 4, 8, 60, 60),
    Case(REWARD_MODEL, 512, 4, 4, 60, 60, {**CHECKPOINTED, "bits": 4}),
    Case(POLICY_INIT, 256, 6, 8, 60, 120, CHECKPOINTED),
    Case(POLICY_INIT, 512, 4, 2, 60, 60, {**BF16, "gradient_accumulation_steps": 2}),
    Case(PPO, 256, 4, 8, 40, 40),
    Case(PPO, 256, 4, 8, 40, 40, {"advantage_estimator": "rloo", "samples_per_prompt": 2}),
    Case(PPO, 256, 4, 16, 20, 40, {**CHECKPOINTED, "tokens_per_micro_batch": 512}),
    Case(PPO, 512, 4, 4, 40, 24, {"bits": 4, "optim": "paged_adamw_32bit"}),
    Case(PPO, 512, 4, 4, 60, 24, {**CHECKPOINTED, **BF16, "optim": "adamw_torch_fused"}),
    Case(PPO, 768, 4, 8, 40, 40, {**CHECKPOINTED, "step_per_device_batch_size": 2}),
)


@dataclass
class CheckArguments:
    """What to check."""

    _argument_group_name = "check"

    output_file: str = field(metadata={"help": "JSON file to write."})
    device: Literal["cpu", "cuda"] = field(default="cpu", metadata={"help": "Where the programs run."})
    worker: str | None = field(default=None, metadata={"help": "Used by this program: one case, as JSON."})


def prepare(argv: Sequence[str]) -> CheckArguments:
    """Parse the command line. Raises ValueError where there is no such device."""
    arguments = StrictParser((CheckArguments,), description=__doc__).parse(argv)[0]
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no GPU")
    return arguments


def run(arguments: CheckArguments) -> None:
    """Check every case, print a table, and fail when a plan is too far off."""
    if arguments.worker is not None:
        print(json.dumps(run_case(**json.loads(arguments.worker))))
        return
    results = []
    print(f"{'MiB: planned':>12} {'tensors':>8} {'error':>7} {'resident':>9}")
    for number in trange(len(CASES), desc="cases", disable=None):
        results.append(check(number, arguments.device))
        print(_line(results[-1]), flush=True)
        record = {"when": time.strftime("%Y-%m-%d"), "environment": environment(), "cases": results}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_text_whole(Path(arguments.output_file), text)
    worst = max(abs(result["error"]) for result in results)
    if worst > ALLOWED:
        sys.exit(f"a plan is {worst:.1%} off; allowed are {ALLOWED:.0%}")


def check(number: int, device: str) -> dict[str, Any]:
    """One case in MiB: planned, measured, and the error of the plan relative to what tensors took."""
    case, found = CASES[number], {}
    # Every block from 64 KiB on is mapped by itself, so that what is released leaves the resident memory.
    variables = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        rows = 2 * case.rows * case.flags.get("gradient_accumulation_steps", 1)
        shape = (case.hidden, case.layers, LORA_R, case.query, case.response, rows)
        # The profiler doesn't see threads, in which weights are converted: they are stored as they will be loaded.
        write_world(Path(folder), *shape, torch.bfloat16 if case.flags.get("bf16") else torch.float32)
        for resident in (False, True) if device == "cpu" else (False,):
            job = {"number": number, "folder": folder, "device": device, "resident": resident}
            done = subprocess.run(
                [sys.executable, __file__, "--output_file", os.devnull, "--worker", json.dumps(job)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **variables},
            )
            if done.returncode:
                sys.exit(f"{case.name}\n{done.stderr}")
            found |= json.loads(done.stdout.splitlines()[-1])
    return {"case": case.name, **found, "error": found["planned"] / found["tensors"] - 1}


def _line(result: dict[str, Any]) -> str:
    resident = f"{result['resident']:9.0f}" if "resident" in result else " " * 9
    numbers = f"{result['planned']:12.0f} {result['tensors']:8.0f} {result['error']:7.1%} {resident}"
    return f"{numbers}  {result['case']}: {result['phase']}"


def run_case(number: int, folder: str, device: str, resident: bool) -> dict[str, Any]:
    """Plan and run a case in this process; MiB planned and the phase that decides, MiB of tensors or resident memory."""
    case, world = CASES[number], World.at(Path(folder))
    program = importlib.import_module(f"llava_rlhf.{case.program}")
    prepared = program.prepare(command_line(case, world, Path(folder) / f"run {resident}", device))
    if case.program == PPO:
        settings = vars(prepared.settings).values()
        request = request_of(case.program, settings, prepared.prompts, 1, prepared.reward_base)
    else:
        settings = (prepared.training, prepared.data, prepared.model, prepared.run)
        request = request_of(case.program, settings, prepared.train_set, 1)
    plan = plan_for(request)
    measure = resident_peak if resident else allocated_peak if device == "cpu" else gpu_peak
    measured = measure(lambda: program.run(prepared)) / MIB
    kind = "resident" if resident else "tensors"
    return {"planned": plan.peak / MIB, "phase": plan.widest.name.split(":")[0], kind: measured}


def command_line(case: Case, world: World, output: Path, device: str) -> list[str]:
    """Flags of the program, the case's own last."""
    flags = {
        "image_folder": world.images,
        "version": "tiny",
        "use_cpu": device == "cpu",
        "output_dir": output,
        "max_steps": STEPS,
        "query_len": case.query + 20,
        "response_len": case.response + 10,
        "model_max_length": 2 * (case.query + case.response) + 60,
    }
    if case.program == PPO:
        flags |= {
            "dataset_path": world.prompts,
            "reward_prompt_file": world.reward_prompt,
            "base_model_name": world.base,
            "policy_model_name_or_path": world.policy,
            "reward_model_name_or_path": world.reward_model,
            "response_len": case.response,
            "rollout_batch_size": case.rows,
            "step_batch_size": case.rows,
            "rollout_per_device_batch_size": case.rows,
            "reward_model_per_device_batch_size": case.rows,
            "step_per_device_batch_size": case.rows,
            "noptepochs": 1,
            "gradient_checkpointing": False,
        }
    else:
        rewards = case.program == REWARD_MODEL
        flags |= {
            "dataset_path": world.preferences if rewards else world.dialogues,
            "model_name_or_path": world.base,
            "per_device_train_batch_size": case.rows,
            "lora_r": LORA_R,
            "eval_size": 0,
            "save_strategy": "no",
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            **({"reward_prompt_file": world.reward_prompt} if rewards else {}),
        }
    return [word for name, value in {**flags, **case.flags}.items() for word in (f"--{name}", str(value))]


def allocated_peak(work: Callable[[], None]) -> int:
    """The most bytes that PyTorch's allocator had given out at once, after loading, for what was made inside `work`."""
    loaded = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:

        def note() -> None:
            nonlocal loaded
            loaded = time.time_ns()

        with _after_loading(note):
            work()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live) if event.start_ns() > loaded else live
    return peak


def resident_peak(work: Callable[[], None]) -> int:
    """The most bytes of resident memory during `work`, after loading, above those before it."""
    before = _status("VmRSS")
    with _after_loading(lambda: Path("/proc/self/clear_refs").write_text("5")):  # the peak starts anew
        work()
    return _status("VmHWM") - before


def gpu_peak(work: Callable[[], None]) -> int:
    """The most bytes that PyTorch's allocator had given out at once on the GPU, after loading."""
    with _after_loading(torch.cuda.reset_peak_memory_stats):
        work()
    return torch.cuda.max_memory_allocated()


@contextmanager
def _after_loading(act: Callable[[], object]) -> Iterator[None]:
    """Act whenever the base has been loaded: its files pass through memory that a GPU would not see."""
    load = assemble.load_base

    def load_and_act(*args: Any) -> Any:
        base = load(*args)
        act()
        return base

    assemble.load_base = load_and_act
    try:
        yield
    finally:
        assemble.load_base = load


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_program(prepare, run)
