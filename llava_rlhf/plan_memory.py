"""Say how much memory a training program will take, before anything is loaded.

    python -m llava_rlhf.plan_memory scripts/13b-v1.5-336/train_rl_model.sh --gpus 8 --gpu_gib 80
    python -m llava_rlhf.plan_memory train_rl_model --shape 13b-v1.5-336 --bits 4 --bf16 True

First a script or the name of a program, then this program's own flags and any flags of the other in any order. Tensors are
counted, not measured (docs/memory.md says how well); rows are as long as the flags allow.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llava_rlhf.memory_planning.commands import command
from llava_rlhf.memory_planning.launch_lines import LaunchLine, launch_lines
from llava_rlhf.memory_planning.names import PICTURE_SIZE, PROGRAMS
from llava_rlhf.memory_planning.plan import GIB, MemoryPlan
from llava_rlhf.memory_planning.published import PUBLISHED
from llava_rlhf.runs.parsing import ArgumentError, StrictParser, run_program

if TYPE_CHECKING:
    from llava_rlhf.memory_planning.request import Request

# Flags of the programs that must be positive: `parse_values` does not build the objects that check them.
COUNTS = (
    "query_len response_len model_max_length lora_r gradient_accumulation_steps per_device_train_batch_size "
    "per_device_eval_batch_size rollout_batch_size step_batch_size rollout_per_device_batch_size "
    "reward_model_per_device_batch_size step_per_device_batch_size logits_chunk_size"
).split()
WIDTH_X_HEIGHT = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}")


@dataclass
class PlanArguments:
    """Where it will run, and on which bases."""

    _argument_group_name = "plan"

    gpus: int = field(
        default=0, metadata={"help": "Processes, one a GPU; 0: as many as the script starts, else 1."}
    )
    gpu_gib: float = field(
        default=0, metadata={"help": "Memory of one GPU in GiB: says whether it fits, and what would."}
    )
    shape: str | None = field(
        default=None,
        metadata={"help": f"Published base to plan with, wherever it lies: {', '.join(PUBLISHED)}."},
    )
    reward_shape: str | None = field(
        default=None, metadata={"help": "The same for the base of reward and value, if it is another one."}
    )
    picture: str = field(
        default="{}x{}".format(*PICTURE_SIZE),
        metadata={
            "help": "WIDTHxHEIGHT of the largest pictures, where their size decides how many positions they take."
        },
    )

    def __post_init__(self):
        for name in ("gpus", "gpu_gib"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 0")
        for name in ("shape", "reward_shape"):
            if getattr(self, name) not in (None, *PUBLISHED):
                raise ValueError(f"--{name} {getattr(self, name)}: choose from {', '.join(PUBLISHED)}")
        if not WIDTH_X_HEIGHT.fullmatch(self.picture):
            raise ValueError(f"--picture {self.picture}: must be WIDTHxHEIGHT in pixels, such as 640x480")

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height."""
        width, height = self.picture.split("x")
        return int(width), int(height)


@dataclass(frozen=True)
class Asked:
    """The script or program, its own flags, and those of this program."""

    what: str
    flags: tuple[str, ...]
    plan: PlanArguments


@dataclass(frozen=True)
class PlanRun:
    """Plans with what was asked, and the memory of a GPU in bytes, None where it was not said."""

    planned: list[tuple["Request", MemoryPlan]]
    gpu_bytes: float | None
    asked: "Asked"


def prepare(argv: Sequence[str]) -> PlanRun:
    """Plan what a command line asks for. Raises ValueError for what a user can get wrong."""
    found, gpu_gib = requests(argv)
    from llava_rlhf.memory_planning.programs import plan_for  # traces layers, with torch

    return PlanRun([(request, plan_for(request)) for request in found], gpu_gib * GIB or None, _asked(argv))


def run(prepared: PlanRun) -> None:
    """Print the plans, and for one that does not fit the command that does."""
    from llava_rlhf.memory_planning.programs import describe

    size = prepared.gpu_bytes
    for request, plan in prepared.planned:
        if size is None or plan.total <= size:
            print(describe(plan, size))
        else:
            print(describe(plan, None), f"  does NOT fit in {size / GIB:.0f} GiB", sep="\n", flush=True)
            print(advice(request, prepared.asked, size))


def advice(request: "Request", asked: Asked, gpu_bytes: float) -> str:
    """The command with the smallest change that fits, what it changes in results, or why nothing fits."""
    from llava_rlhf.memory_planning.search import search

    try:
        found = search(request, gpu_bytes)
    except ValueError as error:  # of batch sizes that do not divide
        return f"  {error}"
    if isinstance(found, str):
        return f"  {found}"
    processes = request.processes if asked.plan.gpus or asked.what in PROGRAMS else None
    effects = "\n".join(f"    {effect}" for effect in found.effects)
    words = command(asked.what, asked.flags, found.changes, processes)
    return f"  this takes {found.plan.total / GIB:.1f} GiB:\n  {words}\n  what changes in results:\n{effects}"


def requests(argv: Sequence[str]) -> tuple[list["Request"], float]:
    """Parse the command line, and run a script that is named as far as its launch lines; what to plan, and `--gpu_gib`."""
    asked = _asked(argv)
    what, flags = asked.what, asked.flags
    lines = [LaunchLine(what, flags, 1)] if what in PROGRAMS else launch_lines(what, flags)
    return [_request(line, asked.plan) for line in lines], asked.plan.gpu_gib


def _asked(argv: Sequence[str]) -> Asked:
    parser = StrictParser((PlanArguments,), description=__doc__)
    if {"-h", "--help", "--help_all"} & set(argv[:1]):
        parser.parse(["--help"])
    if any(word.split("=", 1)[0] == "--judge_shape" for word in argv):
        raise ArgumentError("--judge_shape is now called --reward_shape")
    known, rest = parser.parse_known_args(list(argv))
    plan = PlanArguments(**{name: getattr(known, name) for name in PlanArguments.__dataclass_fields__})
    if not rest or rest[0].startswith("-"):
        raise ArgumentError(f"first name a script or one of {', '.join(PROGRAMS)}\n(--help shows examples)")
    return Asked(rest[0], tuple(rest[1:]), plan)


def _request(line: LaunchLine, plan: PlanArguments) -> "Request":
    from llava_rlhf.memory_planning.request import Request
    from llava_rlhf.memory_planning.settings import Lengths

    classes = importlib.import_module(f"llava_rlhf.{line.program}").ARGUMENTS
    flags = StrictParser(classes).parse_values(line.arguments)
    for name in COUNTS:
        if flags.get(name, 1) < 1:
            raise ValueError(f"--{name} {flags[name]}: must be at least 1")
    processes = plan.gpus or line.processes
    lengths, shapes = Lengths.allowed(flags), (plan.shape, plan.reward_shape)
    return Request(line.program, flags, lengths, processes, *shapes, plan.picture_size)


if __name__ == "__main__":
    run_program(prepare, run)
