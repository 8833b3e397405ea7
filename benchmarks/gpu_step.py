"""One PPO step of 7B- and 13B-shaped random models on a GPU, held against what the GPU can do; prints one table.

    bash benchmarks/gpu.sh

336 px, 32 prompts, answers of about 200 tokens, the longest 896. Shares of peak hold the products with weights (recomputed
ones included) against a measured bfloat16 product; decoding is held against reading the weights and the cache once a token,
at the measured rate of a copy. Every line runs in a process of its own; one that can't run says why.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo_meters import StepMeter, peak_mib
from benchmarks.ppo_world import SIZES, build_trainer
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.run_record import environment
from llava_rlhf.runs.stopping import StopSignals
from models.vlm import VisionLanguageModel

HEADER = (
    f"{'':<12}{'step s':>8}{'tokens/s':>10}{'update s':>10}{'of peak':>9}{'scoring s':>11}{'of peak':>9}"
    f"{'sampling s':>12}{'decode, of bound':>18}{'peak GiB':>10}"
)


@dataclass
class GPUArguments:
    """What to time."""

    _argument_group_name = "benchmark"

    output_file: str = field(metadata={"help": "JSON file to write."})
    lines: list[str] = field(
        default_factory=lambda: ["7b-bf16", "7b-nf4", "13b-nf4", "13b-bf16"],
        metadata={"help": f"SIZE-bf16 or SIZE-nf4, SIZE of {', '.join(SIZES)}."},
    )
    steps: int = field(default=2, metadata={"help": "Steps of each; the last is reported."})
    minutes: float = field(
        default=9.0, metadata={"help": "In all; lines that time does not suffice for are skipped."}
    )
    device: str = field(default="cuda", metadata={"help": "cuda, or cpu to try the program."})
    worker: str | None = field(default=None, metadata={"help": "Used by this program: one line."})


def prepare(argv: Sequence[str]) -> GPUArguments:
    """Parse the command line."""
    arguments = StrictParser((GPUArguments,), description=__doc__).parse(argv)[0]
    for line in arguments.lines:
        size, _, kind = line.partition("-")
        if size not in SIZES or kind not in ("bf16", "nf4"):
            raise ValueError(f"--lines {line}: SIZE-bf16 or SIZE-nf4, SIZE of {', '.join(SIZES)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: PyTorch sees no GPU here (--device cpu --lines tiny-bf16 tries the program)"
        )
    return arguments


def run(arguments: GPUArguments) -> None:
    """Time every line, print the table, write the numbers."""
    if arguments.worker is not None:
        print(json.dumps(time_line(arguments.worker, arguments.steps, arguments.device)))
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    found = {}
    for line in arguments.lines:
        print(f"{line} …", file=sys.stderr, flush=True)
        found[line] = in_own_process(line, arguments, deadline - time.monotonic())
    print(HEADER)
    for line, result in found.items():
        print(table_line(line, result))
    record = {"when": time.strftime("%Y-%m-%d"), "environment": environment(), "lines": found}
    if arguments.device == "cuda":
        record["GPU"] = torch.cuda.get_device_name()
    write_text_whole(Path(arguments.output_file), json.dumps(record, indent=2) + "\n")


def in_own_process(line: str, arguments: GPUArguments, seconds: float) -> dict[str, Any]:
    """The numbers of one line, or {"skipped": why}."""
    if seconds <= 0:
        return {"skipped": "no time left (--minutes)"}
    command = [sys.executable, __file__, "--output_file", "-", "--steps", str(arguments.steps)]
    try:
        done = subprocess.run(
            [*command, "--device", arguments.device, "--worker", line],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {"skipped": "no time left (--minutes)"}
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def time_line(line: str, steps: int, device: str) -> dict[str, float]:
    """Run the steps; seconds, rates and peak memory of the last."""
    name, _, kind = line.partition("-")
    size = SIZES[name]
    settings = {"logits_chunk_size": 512, "tokens_per_micro_batch": size.tokens_per_micro_batch}
    product, copy = product_rate(device), copy_rate(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer, prompts = build_trainer(size, folder, torch.bfloat16, device, kind == "nf4", **settings)
        meter = StepMeter(trainer)
        if device == "cuda":
            torch.cuda.empty_cache()  # what quantising took
            torch.cuda.reset_peak_memory_stats()
        for step in range(steps):
            with meter.step() as numbers:
                trainer._step(iter([prompts]), step, Path(folder), StopSignals())
        peak = peak_mib() * 2**20 if device == "cpu" else torch.cuda.max_memory_allocated()
    seconds = dict(meter.seconds)
    scoring = sum(taken for part, taken in seconds.items() if part.startswith("scoring"))
    read = decoding_bytes(trainer.collector.roles.policy.bank.vlm, meter.counts)
    return numbers | {
        "seconds": seconds,
        "tokens/s": sum(size.lengths) / numbers["wall s"],
        "scoring s": scoring,
        "update share": numbers["update GFLOP"] * 1e9 / seconds["update"] / product,
        "scoring share": numbers["scoring GFLOP"] * 1e9 / scoring / product,
        "decode share": read / copy / (seconds["sampling"] - seconds["prefill"]),
        "peak bytes": peak,
        "product FLOP/s": product,
        "copy bytes/s": copy,
    }


def decoding_bytes(vlm: VisionLanguageModel, counts: dict[str, int]) -> float:
    """What decoding has to read at least: weights of layers and head once a step, keys and values of every row."""
    config = vlm.model.config.get_text_config()
    layers = vlm.model.model.language_model.layers.named_parameters()
    weights = [weight for name, weight in layers if "lora_" not in name] + [vlm.model.lm_head.weight]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    column = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # bfloat16
    return size * counts["decoding steps"] + column * counts["cache columns"]


def product_rate(device: str) -> float:
    """FLOP/s of a bfloat16 product; of a float32 one where that is faster, as on CPUs without bfloat16 units."""
    side = 8192 if device == "cuda" else 512
    rates = []
    for dtype in (torch.bfloat16,) if device == "cuda" else (torch.bfloat16, torch.float32):
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        rates.append(2 * side**3 / fastest(partial(torch.mm, left, right), device))
    return max(rates)


def copy_rate(device: str) -> float:
    """Bytes/s, read and written, of a copy on the device."""
    source = torch.zeros(2**30 if device == "cuda" else 2**24, device=device, dtype=torch.uint8)
    return 2 * source.numel() / fastest(partial(torch.empty_like(source).copy_, source), device)


def fastest(work: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Seconds of the fastest of several calls."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def table_line(line: str, result: dict[str, Any]) -> str:
    """One line of the table."""
    if "skipped" in result:
        return f"{line:<12}skipped: {result['skipped']}"
    seconds = result["seconds"]
    return (
        f"{line:<12}{result['wall s']:8.1f}{result['tokens/s']:10.0f}{seconds['update']:10.1f}"
        f"{result['update share']:9.0%}{result['scoring s']:11.1f}{result['scoring share']:9.0%}"
        f"{seconds['sampling']:12.1f}{result['decode share']:18.0%}{result['peak bytes'] / 2**30:10.1f}"
    )


if __name__ == "__main__":
    run_program(prepare, run)
