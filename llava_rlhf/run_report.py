"""Write one HTML page on a training run, while it goes on or afterwards.

    python -m llava_rlhf.run_report --run runs/rl_model --scores sft/scores.json rl_model/scores.json
    python -m llava_rlhf.run_report --run runs/rl_model runs/rl_model_without_facts

What changed, whether the run is healthy, curves of every metric; of a PPO run also what the reward is made of, and its
rollouts in a table. Several runs stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.runs.parsing import StrictParser, run_program

if TYPE_CHECKING:
    from llava_rlhf.reporting.changes import Measured
    from llava_rlhf.reporting.run_data import RunData


def prepare(argv: Sequence[str]) -> tuple[RunReportArguments, list[RunData], Measured | None]:
    """Parse the command line, read the runs and compare the scores. Raises ValueError for missing or damaged files."""
    (arguments,) = StrictParser((RunReportArguments,), description=__doc__).parse(argv)
    from llava_rlhf.evaluation.measured import measured  # brings SciPy
    from llava_rlhf.reporting.page import run_names
    from llava_rlhf.reporting.report import read_for_report

    runs = read_for_report(arguments)
    names = run_names(runs) if len(runs) > 1 else ["before", "after"]
    return arguments, runs, measured(names, arguments.scores) if arguments.scores else None


def run(prepared: tuple[RunReportArguments, list[RunData], Measured | None]) -> None:
    """Shrink the images and write the page; print what looks unhealthy."""
    from llava_rlhf.reporting.report import unhealthy, write_report

    write_report(*prepared)
    _, runs, held_out = prepared
    for line in unhealthy(runs, held_out):
        print(line)


if __name__ == "__main__":
    run_program(prepare, run)
