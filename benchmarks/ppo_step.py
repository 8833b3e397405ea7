"""Time PPO steps of stated sizes: CPU seconds of every part, tokens computed, memory, against the 2023 original.

    PYTHONPATH=. python benchmarks/ppo_step.py --output_file FILE [--sweep True] [--device cuda --sizes 7b 13b]

Every size runs in a process of its own, on one thread. `padded` is the same loop with the padding of short answers
computed (`--numerics published`), so that what it costs is measured in one run; `no critic` compares each answer with the
others to its prompt (`--advantage_estimator rloo`). The original's seconds were recorded on a machine of 121 GFLOP/s; both are normalised by the measured rate of a matrix product.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo_meters import StepMeter, matrix_product_rate, peak_mib
from benchmarks.ppo_world import SIZES, build_trainer
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.run_record import environment
from llava_rlhf.runs.stopping import StopSignals

ORIGINAL_RATE = 121.0  # GFLOP/s of the machine that timed the original
# CPU seconds (rollout, update), LM tokens and peak MiB of one step of the original.
ORIGINAL = {
    "tiny": (3.34, 3.25, 10144, 1051),
    "mid": (10.97, 13.28, 15864, 1528),
    "short answers": (7.88, 12.20, 19672, 1811),
}
SCHEDULES = {
    "packed": {},
    "padded": {"numerics": "published"},
    "no critic": {"estimator": EstimatorArguments("published", "rloo", samples_per_prompt=4)},
}


@dataclass
class BenchmarkArguments:
    """What to time."""

    _argument_group_name = "benchmark"

    output_file: str = field(metadata={"help": "JSON file to write; a plot stands beside it."})
    sizes: list[str] = field(
        default_factory=lambda: list(ORIGINAL), metadata={"help": f"Of {', '.join(SIZES)}."}
    )
    steps: int = field(default=4, metadata={"help": "Steps a size; the first is left out of the median."})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda."})
    sweep: bool = field(default=False, metadata={"help": "Also vary response length and batch of `tiny`."})
    worker: str | None = field(default=None, metadata={"help": "Used by this program: one case, as JSON."})

    def __post_init__(self):
        unknown = sorted(set(self.sizes) - set(SIZES))
        if unknown or self.steps < 2:
            raise ValueError(f"--sizes {unknown}: choose from {', '.join(SIZES)}; --steps must be at least 2")


def prepare(argv: Sequence[str]) -> BenchmarkArguments:
    """Parse the command line."""
    return StrictParser((BenchmarkArguments,), description=__doc__).parse(argv)[0]


def run(arguments: BenchmarkArguments) -> None:
    """Time every case in a process of its own, print a table, write the numbers and the plot."""
    if arguments.worker is not None:
        print(json.dumps(time_case(json.loads(arguments.worker), arguments.steps)))
        return
    cases = [
        {"size": size, "schedule": schedule, "device": arguments.device}
        for size in arguments.sizes
        for schedule in SCHEDULES
    ]
    if arguments.sweep:
        cases += [{"size": "tiny", "schedule": "packed", "rows": rows} for rows in (2, 4, 8, 16, 32)]
        cases += [
            {"size": "tiny", "schedule": "packed", "response_len": length}
            for length in (16, 32, 64, 128, 256)
        ]
    torch.set_num_threads(1)
    results = []
    for case in cases:
        # Measured here: its tables would count as memory of the step.
        before = matrix_product_rate()
        result = case | in_own_process(case, arguments)
        results.append(result | {"machine GFLOP/s": (before + matrix_product_rate()) / 2})
        print(one_line(results[-1]), flush=True)
    record = {"when": time.strftime("%Y-%m-%d"), "environment": environment(), "results": results}
    path = Path(arguments.output_file)
    write_text_whole(path, json.dumps(record, indent=2) + "\n")
    plot(results, path.with_suffix(".png"))


def in_own_process(case: dict[str, Any], arguments: BenchmarkArguments) -> dict[str, float]:
    """The numbers of one case; memory is that of its process."""
    command = [sys.executable, __file__, "--output_file", "-", "--steps", str(arguments.steps)]
    done = subprocess.run(
        [*command, "--worker", json.dumps(case)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def time_case(case: dict[str, Any], steps: int) -> dict[str, float]:
    """Run `steps` PPO steps and report the medians of all but the first."""
    torch.set_num_threads(1)
    size, device = SIZES[case["size"]], case.get("device", "cpu")
    if "rows" in case:
        size = replace(size, lengths=(size.lengths * 8)[: case["rows"]])
    if "response_len" in case:
        size = replace(size, response_len=case["response_len"], lengths=(case["response_len"],) * 8)
    imports = peak_mib()
    settings = {
        **SCHEDULES[case["schedule"]],
        "logits_chunk_size": 32 if device == "cpu" else 512,
        "tokens_per_micro_batch": size.tokens_per_micro_batch,
    }
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        trainer, prompts = build_trainer(size, folder, dtype, device, **settings)
        meter = StepMeter(trainer)
        found = []
        for step in range(steps):
            with meter.step() as numbers:
                trainer._step(iter([prompts]), step, Path(folder), StopSignals())
            found.append(numbers)
        peak = peak_mib() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    medians = {name: statistics.median(numbers[name] for numbers in found[1:]) for name in found[-1]}
    return medians | {
        "GFLOP/s": medians["GFLOP"] / medians["cpu s"],
        "peak MiB": peak,
        "imports MiB": imports,
    }


def one_line(result: dict[str, Any]) -> str:
    """A line of the printed table."""
    name = " ".join(str(result[key]) for key in ("size", "schedule", "rows", "response_len") if key in result)
    line = f"{name:<30}{result['cpu s']:8.2f} cpu s  {result['LM tokens']:8.0f} tokens  {result['peak MiB']:7.0f} MiB"
    line += f" ({result['peak MiB'] - result['imports MiB']:.0f} beyond imports)"
    line += f"  {result['GFLOP/s'] / result['machine GFLOP/s']:6.0%} of the machine"
    if result["size"] in ORIGINAL and result.keys().isdisjoint({"rows", "response_len"}):
        rollout, update, _, peak = ORIGINAL[result["size"]]
        ratio = (rollout + update) * ORIGINAL_RATE / (result["cpu s"] * result["machine GFLOP/s"])
        line += f"  {ratio:5.1f} × faster than the original, {result['peak MiB'] / peak:.2f} of its memory"
    return line


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU seconds of every case, and of the sweeps against their variable."""
    # Here, so that its memory is not counted as that of a step.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5))
    axes = figure.subplots(1, 3)
    sizes = [result for result in results if result.keys().isdisjoint({"rows", "response_len"})]
    axes[0].barh([f"{r['size']} {r['schedule']}" for r in sizes], [r["cpu s"] for r in sizes])
    axes[0].set_xlabel("CPU seconds a step")
    for axis, variable in zip(axes[1:], ("rows", "response_len"), strict=True):
        points = [(r[variable], r["cpu s"]) for r in results if variable in r]
        axis.plot(*(zip(*points, strict=True) if points else ([], [])), marker="o")
        axis.set(xlabel=variable, ylabel="CPU seconds a step", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    run_program(prepare, run)
