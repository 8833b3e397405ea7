"""Peak memory of converting an original LLaVA model: a random one with the layers of a 13B model, but narrow.

    PYTHONPATH=. python benchmarks/convert_memory.py --output_file benchmarks/convert_memory.json

Needs Linux and about 5 GB of disk. Each file format is converted in a process of its own; the bound is the largest file
that is read plus 1 GiB, which has to hold Python, torch and transformers too.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.run_record import environment
from tests.support.original_models import OriginalShape, sentencepiece_model, write_json, write_tower

MEBIBYTE = 2**20
HEAD_SIZE = 128
SHARDS = 3
PIECES = 380  # of the tokenizer; the vocabulary has more rows than it needs
SAVERS: dict[str, tuple[str, Callable[[dict[str, Tensor], Path], None]]] = {
    "safetensors": ("model-{}.safetensors", save_file),
    "bin": ("pytorch_model-{}.bin", torch.save),
    "bin before torch 1.6": (
        "pytorch_model-{}.bin",
        partial(torch.save, _use_new_zipfile_serialization=False),
    ),
}
IMPORT = "import llava_rlhf.conversion.base_model\n"
CONVERT = """
import sys
from pathlib import Path
from llava_rlhf.conversion.base_model import plan_base
plan_base(Path(sys.argv[1]), Path(sys.argv[2])).write(Path(sys.argv[3]))
"""
# Of this process alone; ru_maxrss would start at the size of the process that forked it.
PEAK = """
from pathlib import Path
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024)
"""


@dataclass
class BenchmarkArguments:
    """What to convert."""

    _argument_group_name = "benchmark"

    output_file: str = field(metadata={"help": "JSON file to write."})
    layers: int = field(default=40, metadata={"help": "Layers of the language model."})
    hidden: int = field(
        default=1664, metadata={"help": f"Hidden size, a multiple of {HEAD_SIZE}; 1664: 2.4 GB in all."}
    )
    folder: str | None = field(
        default=None, metadata={"help": "Where the model is written and removed again; default: temporary."}
    )

    def __post_init__(self):
        if self.hidden % HEAD_SIZE:
            raise ValueError(f"--hidden {self.hidden}: must be a multiple of {HEAD_SIZE}")


def prepare(argv: Sequence[str]) -> BenchmarkArguments:
    """Parse the command line."""
    return StrictParser((BenchmarkArguments,), description=__doc__).parse(argv)[0]


def run(arguments: BenchmarkArguments) -> None:
    """Write, convert and measure each format; print and write the numbers."""
    heads = arguments.hidden // HEAD_SIZE
    shape = OriginalShape(
        hidden=arguments.hidden,
        layers=arguments.layers,
        heads=heads,
        key_value_heads=heads,
        vocab_size=32001,  # padded to 32064 rows
    )
    record = {
        "when": time.strftime("%Y-%m-%d"),
        "environment": environment(),
        "layers": shape.layers,
        "hidden": shape.hidden,
        "imports MiB": round(peak_memory(IMPORT), 1),
        "formats": {name: measure(shape, name, arguments.folder) for name in SAVERS},
    }
    text = json.dumps(record, indent=2) + "\n"
    print(text)
    write_text_whole(Path(arguments.output_file), text)


def measure(shape: OriginalShape, name: str, scratch: str | None) -> dict[str, float]:
    """MiB and seconds of converting a random model of this shape, written in this format."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source, tower, output = (Path(folder) / part for part in ("original", "tower", "converted"))
        write_tower(tower, shape)
        largest = write_model(source, shape, *SAVERS[name])
        started = time.perf_counter()
        peak = peak_memory(CONVERT, source, tower, output)
        written = sum(file.stat().st_size for file in output.glob("*.safetensors"))
        return {
            "largest shard MiB": round(largest / MEBIBYTE, 1),
            "peak MiB": round(peak, 1),
            "bound MiB": round(largest / MEBIBYTE + 1024, 1),
            "written MiB": round(written / MEBIBYTE, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }


def peak_memory(code: str, *arguments: Path) -> float:
    """MiB that a Python process running this code held at most."""
    done = subprocess.run(
        [sys.executable, "-c", code + PEAK, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def write_model(
    folder: Path, shape: OriginalShape, file_name: str, save: Callable[[dict[str, Tensor], Path], None]
) -> int:
    """Write a random original model in shards of about equal size; returns the bytes of the largest."""
    folder.mkdir()
    write_json(folder / "config.json", shape.original_config())
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))
    with torch.device("meta"):
        weights = dict(LlamaForCausalLM(shape.text_config()).state_dict())
        for index, width in ((0, shape.vision_hidden), (2, shape.hidden)):
            layer = torch.nn.Linear(width, shape.hidden)
            weights |= {
                f"model.mm_projector.{index}.{name}": value for name, value in layer.state_dict().items()
            }
    per_shard = math.ceil(sum(value.numel() for value in weights.values()) / SHARDS)
    shards: list[dict[str, Tensor]] = [{} for _ in range(SHARDS)]
    passed = 0
    for name, value in weights.items():
        shards[passed // per_shard][name] = value
        passed += value.numel()
    largest = 0
    for number, shard in enumerate(tqdm(shards, desc="writing shards"), start=1):
        path = folder / file_name.format(f"{number:05}-of-{SHARDS:05}")
        drawn = {
            name: torch.empty(value.shape, dtype=torch.float16).uniform_(-1, 1)
            for name, value in shard.items()
        }
        save(drawn, path)
        largest = max(largest, path.stat().st_size)
    return largest


if __name__ == "__main__":
    run_program(prepare, run)
