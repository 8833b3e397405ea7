"""Write one HTML page on a training run, while it goes on or afterwards.

    python -m llava_rlhf.run_report --run runs/rl_model

Curves of every metric; of a PPO run also what the reward is made of, and its rollouts in a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.runs.parsing import StrictParser, run_program

if TYPE_CHECKING:
    from llava_rlhf.reporting.run_data import RunData


def prepare(argv: Sequence[str]) -> tuple[RunReportArguments, RunData]:
    """Parse the command line and read the run. Raises ValueError for missing or damaged files."""
    (arguments,) = StrictParser((RunReportArguments,), description=__doc__).parse(argv)
    from llava_rlhf.reporting.report import read_for_report  # brings matplotlib

    return arguments, read_for_report(arguments)


def run(prepared: tuple[RunReportArguments, RunData]) -> None:
    """Draw the figures, shrink the images and write the page."""
    from llava_rlhf.reporting.report import write_report

    write_report(*prepared)


if __name__ == "__main__":
    run_program(prepare, run)
