"""Policy and reference in one pass of twice the rows, with an adapter for each row (PEFT's `adapter_names`), or in two passes?

    PYTHONPATH=. python benchmarks/adapters_per_row.py [--sizes tiny mid] [--device cuda --sizes 7b]

PPO takes two passes: see docs/benchmarks.md.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks.ppo_world import IMAGE, SIZES, Size, random_model
from llava_rlhf.runs.parsing import StrictParser, run_program
from models.adapters import AdapterBank, AdapterSpec
from models.packed_features import PackedFeatures
from models.settings import LoraSettings

ADAPTERS = ("policy", "reference")


@dataclass
class PassArguments:
    """What to time."""

    _argument_group_name = "benchmark"

    sizes: list[str] = field(
        default_factory=lambda: ["tiny", "mid"], metadata={"help": f"Of {', '.join(SIZES)}."}
    )
    rows: int = field(default=8, metadata={"help": "Rows of each role."})
    columns: int = field(default=200, metadata={"help": "Positions of a row besides its image."})
    repeats: int = field(default=5, metadata={"help": "Of each way; the fastest counts."})
    device: str = field(default="cpu", metadata={"help": "cpu (CPU seconds, one thread) or cuda (seconds)."})


def prepare(argv: Sequence[str]) -> PassArguments:
    """Parse the command line."""
    arguments = StrictParser((PassArguments,), description=__doc__).parse(argv)[0]
    unknown = sorted(set(arguments.sizes) - set(SIZES))
    if unknown:
        raise ValueError(f"--sizes {' '.join(unknown)}: choose from {', '.join(SIZES)}")
    return arguments


def run(arguments: PassArguments) -> None:
    """Time both ways in turn and print a line for each size."""
    torch.set_num_threads(1)
    for name in arguments.sizes:
        bank, inputs = build(SIZES[name], arguments)
        ways = [partial(way, bank, *inputs) for way in (two_passes, one_pass)]
        found = [[seconds(work, arguments.device) for work in ways] for _ in range(arguments.repeats)]
        two, one = map(min, zip(*found, strict=True))
        print(
            f"{name}: two passes {two:.3f} s, one pass {one:.3f} s: two take {two / one:.2f} of one",
            flush=True,
        )


def build(size: Size, arguments: PassArguments) -> tuple[AdapterBank, tuple[Tensor, Tensor]]:
    """A random base with two adapters; ids int64[B, L] and image features of one image a row."""
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    vlm = random_model(size, dtype, arguments.device)
    lora = LoraSettings(r=size.lora_r)
    bank = AdapterBank(vlm, {name: AdapterSpec(lora, trainable=True) for name in ADAPTERS}, False)
    with torch.no_grad():  # B is zero at first, which would make the two alike
        for name in ADAPTERS:
            for weight in bank.parameters_of(name).values():
                torch.nn.init.normal_(weight, std=0.02)
    ids = torch.randint(3, IMAGE, (arguments.rows, arguments.columns + size.positions), device=vlm.device)
    ids[:, 1 : 1 + size.positions] = IMAGE
    shape = arguments.rows * size.positions, size.hidden
    table = torch.randn(shape, device=vlm.device, dtype=dtype)
    features = PackedFeatures(table, (size.positions,) * arguments.rows, ((),) * arguments.rows)
    return bank, (ids, features)


@torch.no_grad()
def two_passes(bank: AdapterBank, ids: Tensor, features: PackedFeatures) -> Tensor:
    """Hidden states float[2B, L, D], one adapter after the other."""
    found = []
    for name in ADAPTERS:
        with bank.use(name, training=False) as vlm:
            found.append(vlm(ids, None, features))
    return torch.cat(found)


@torch.no_grad()
def one_pass(bank: AdapterBank, ids: Tensor, features: PackedFeatures) -> Tensor:
    """The same, all rows together."""
    names = [name for name in ADAPTERS for _ in ids]
    with ExitStack() as stack, bank.use(ADAPTERS[0], training=False) as vlm:
        for place in bank._lora_places:
            hook = place.layer.register_forward_pre_hook(
                lambda layer, args, kwargs: (args, {**kwargs, "adapter_names": names}), with_kwargs=True
            )
            stack.callback(hook.remove)
        return vlm(
            ids.repeat(2, 1),
            None,
            PackedFeatures(features.table.repeat(2, 1), features.lengths * 2, features.grids * 2),
        )


def seconds(work: Callable[[], Tensor], device: str) -> float:
    """CPU seconds of this thread, or wall seconds of a GPU."""
    if device == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_program(prepare, run)
