"""PPO of a tiny-world run with each advantage estimator, over seeds: what it takes to reach a level, and where it ends.

    RUN_DIR=runs/quickstart PYTHONPATH=. python benchmarks/optimisers.py --output_dir DIR [--seeds 0 1 2] [--arms modern grpo]

RUN_DIR is a finished run of scripts/quickstart.sh: all arms start from its policy, reward model and prompts. A seed is PPO's alone.
Every run has a process and a thread of its own; its CPU seconds are that process's, without imports. What is in DIR is not
run again. docs/optimisers.md has the tables.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import importlib
import json
import os
import statistics
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_utils.shapes_files import read_scenes
from llava_rlhf.memory_planning.launch_lines import launch_lines
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import read_json_lines, write_text_whole
from llava_rlhf.tiny_world.report import rollout_curves

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "tiny" / "train_rl_model.sh"
_GROUPS = ("--samples_per_prompt", "4")
# Each at the learning rate that it was compared with.
ARMS: Mapping[str, Sequence[str]] = {
    "published": ("--recipe", "published", "--learning_rate", "5e-4"),
    "modern": ("--recipe", "modern", "--learning_rate", "1e-3"),
    "rloo": ("--advantage_estimator", "rloo", *_GROUPS, "--learning_rate", "1e-3"),
    "grpo": ("--advantage_estimator", "grpo", *_GROUPS, "--learning_rate", "1e-3"),
    "reinforce": ("--advantage_estimator", "reinforce", "--learning_rate", "1e-3"),
}
WINDOW = 3  # steps whose rollouts are averaged for the level
COLUMNS = {
    "explained": "explained variance, last half",
    "hallucination": "hallucination, last four steps",
    "kl": "KL, last four steps",
    "cpu": "CPU s",
    "steps_to_level": "steps to level",
    "cpu_to_level": "CPU s to level",
}


@dataclass
class OptimiserArguments:
    """What to compare."""

    _argument_group_name = "comparison"

    output_dir: str = field(metadata={"help": "Folder of the runs."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of PPO."})
    arms: list[str] = field(default_factory=lambda: list(ARMS), metadata={"help": f"Of {', '.join(ARMS)}."})
    level: float = field(
        default=0.4,
        metadata={"help": f"Share of hallucinating rollouts, mean of {WINDOW} steps, that is to be reached."},
    )

    def __post_init__(self):
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise ValueError(f"--arms {' '.join(unknown)}: choose from {', '.join(ARMS)}")
        if "RUN_DIR" not in os.environ:
            raise ValueError("RUN_DIR is not set: name a finished run of scripts/quickstart.sh")
        self.output_dir = str(Path(self.output_dir).absolute())  # the script goes elsewhere


def prepare(argv: Sequence[str]) -> OptimiserArguments:
    """Parse. Raises ValueError."""
    return StrictParser((OptimiserArguments,), description=__doc__).parse(argv)[0]


def run(arguments: OptimiserArguments) -> None:
    """Train what is not there yet, arm by arm within a seed, and print the table of all."""
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            train(arm, seed, output)
    scenes = read_scenes(Path(os.environ["RUN_DIR"]) / "world" / "scenes.json")
    found = {
        arm: [numbers(output / f"{arm}-{seed}", scenes, arguments.level) for seed in arguments.seeds]
        for arm in arguments.arms
    }
    print(table(found))


def train(arm: str, seed: int, output: Path) -> None:
    """One run, in `output/ARM-SEED`, and beside it the CPU seconds that it took. Raises RuntimeError where it fails."""
    folder = output / f"{arm}-{seed}"
    measured = folder.with_suffix(".json")
    if measured.exists():
        return
    own = ("--seed", str(seed), "--output_dir", str(folder), "--resume", "no")
    (line,) = launch_lines(SCRIPT, [*ARMS[arm], *own])
    program = importlib.import_module(f"llava_rlhf.{line.program}")
    sys.stdout.flush()
    child = os.fork()  # what is imported is not counted
    if child == 0:
        _train_and_leave(program, line.arguments, folder.with_suffix(".log"))
    _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{arm}, seed {seed}, failed: {folder.with_suffix('.log')}")
    write_text_whole(measured, json.dumps({"cpu": used.ru_utime + used.ru_stime}) + "\n")


def _train_and_leave(program: Any, argv: Sequence[str], log: Path) -> None:
    """In a child process, which ends here."""
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    try:
        program.run(program.prepare(list(argv)))
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def numbers(folder: Path, scenes: Mapping[str, Any], level: float) -> dict[str, float]:
    """The columns of one finished run; those that it has none of are left out."""
    lines = read_json_lines(folder / "metrics.jsonl")
    curves = {name: values for name, _, (_, values) in rollout_curves(folder, scenes)}
    cpu = json.loads(folder.with_suffix(".json").read_text())["cpu"]
    steps = steps_to(curves["hallucination"], level)
    name = "ppo/val/explained_variance"
    explained = [line[name] for line in lines[len(lines) // 2 :] if name in line]
    return {
        **({"explained": statistics.mean(explained)} if explained else {}),
        "hallucination": statistics.mean(curves["hallucination"][-4:]),
        "kl": statistics.mean(line["objective/kl_sum_seq"] for line in lines[-4:]),
        "cpu": cpu,
        "steps_to_level": steps,
        "cpu_to_level": cpu * steps / len(lines),
    }


def steps_to(curve: Sequence[float], level: float) -> int:
    """Steps until the mean of `WINDOW` is at most `level`; one more than there are where it never is."""
    for done in range(WINDOW, len(curve) + 1):
        if statistics.mean(curve[done - WINDOW : done]) <= level:
            return done
    return len(curve) + 1


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: mean ± standard error over the runs of each arm."""
    rows = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for arm, runs in found.items():
        rows.append([arm, *(_mean_and_error([one[name] for one in runs if name in one]) for name in COLUMNS)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _mean_and_error(values: Sequence[float]) -> str:
    if not values:
        return "–"
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{error}"


if __name__ == "__main__":
    run_program(prepare, run)
