"""Time PPO steps under several settings in one run, so that only ratios are compared.

    python benchmarks/ppo_step.py --run runs/quickstart --output_file benchmarks/ppo_step.json

Starts from a finished tiny pipeline (`bash scripts/quickstart.sh`), runs a few PPO steps of each variant in a process
of its own, and reports the median seconds of sampling + scoring and of the update.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llava_rlhf.parsing import StrictParser, run_program
from llava_rlhf.run_folder import environment, read_json_lines, write_text_whole

ROOT = Path(__file__).resolve().parents[1]
VARIANTS: dict[str, dict[str, str]] = {
    "baseline": {},
    "gradient checkpointing": {"--gradient_checkpointing": "True"},
    "4-bit base": {"--bits": "4"},
    "half micro-batches": {"--rollout_per_device_batch_size": "32", "--step_per_device_batch_size": "16"},
}


@dataclass
class BenchmarkArguments:
    """What to time."""

    _argument_group_name = "benchmark"

    run: str = field(metadata={"help": "Folder of a finished tiny pipeline."})
    output_file: str = field(metadata={"help": "JSON file to write."})
    steps: int = field(
        default=5, metadata={"help": "PPO steps a variant; the first is left out of the median."}
    )

    def __post_init__(self):
        if self.steps < 2:
            raise ValueError(f"--steps {self.steps}: must be at least 2")
        if not (Path(self.run) / "fact_rl_model").is_dir():
            raise ValueError(f"--run {self.run}: no fact_rl_model in it; run scripts/quickstart.sh first")


def prepare(argv: Sequence[str]) -> BenchmarkArguments:
    """Parse the command line."""
    return StrictParser((BenchmarkArguments,), description=__doc__).parse(argv)[0]


def run(arguments: BenchmarkArguments) -> None:
    """Time every variant, print ratios to the first, write the numbers."""
    results = {
        name: time_variant(Path(arguments.run), flags, arguments.steps) for name, flags in VARIANTS.items()
    }
    reference = next(iter(results.values()))
    for name, numbers in results.items():
        ratios = "  ".join(
            f"{key} {value:8.2f} (×{value / reference[key]:.2f})" for key, value in numbers.items()
        )
        print(f"{name:<24}{ratios}")
    record = {
        "when": time.strftime("%Y-%m-%d"),
        "environment": environment(),
        "matrix_product_gflops": matrix_product_rate(),
        "results": results,
    }
    write_text_whole(Path(arguments.output_file), json.dumps(record, indent=2) + "\n")


def time_variant(folder: Path, flags: Mapping[str, str], steps: int) -> dict[str, float]:
    """Median seconds of the two halves of a PPO step of one variant."""
    with tempfile.TemporaryDirectory() as output:
        extra = [word for pair in flags.items() for word in pair]
        command = ["bash", str(ROOT / "scripts/tiny/train_rl_model.sh"), *extra]
        settings = {
            "RUN_DIR": str(folder.resolve()),
            "OUTPUT_DIR": output,
            "MAX_STEPS": str(steps),
        }
        done = subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr)
        lines = read_json_lines(Path(output) / "metrics.jsonl")[1:]
        return {
            "rollout s": statistics.median(line["time/rollout"] for line in lines),
            "update s": statistics.median(line["time/update"] for line in lines),
        }


def matrix_product_rate(size: int = 2048, repeats: int = 3) -> float:
    """GFLOP per CPU second of a float32 matrix product on one thread: how fast this machine is."""
    torch.set_num_threads(1)
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right
    started = time.process_time()
    for _ in range(repeats):
        left @ right
    return 2 * size**3 * repeats / (time.process_time() - started) / 1e9


if __name__ == "__main__":
    run_program(prepare, run)
