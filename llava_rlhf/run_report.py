"""Write one HTML page on a training run, while it goes on or afterwards.

    python -m llava_rlhf.run_report --run runs/rl_model --scores sft/scores.json rl_model/scores.json
    python -m llava_rlhf.run_report --run runs/rl_model runs/rl_model_without_facts
    python -m llava_rlhf.run_report --pairs runs/scores.jsonl --run runs/reward_model

What changed, whether the run is healthy, curves of every metric; of a PPO run also what the reward is made of, and its
rollouts in a table. Several runs stand side by side. Of scored pairs: how good the reward model is as a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.runs.parsing import StrictParser, run_program

if TYPE_CHECKING:
    from llava_rlhf.reporting.changes import Measured
    from llava_rlhf.reporting.judge_quality import JudgeQuality
    from llava_rlhf.reporting.run_data import RunData


@dataclass(frozen=True)
class Report:
    """What was read, ready to be written: runs with what was measured, or the quality of a judge."""

    arguments: RunReportArguments
    runs: list[RunData]
    held_out: Measured | None = None
    quality: JudgeQuality | None = None


def prepare(argv: Sequence[str]) -> Report:
    """Parse the command line, read the runs, and compare the scores or read the pairs. Raises ValueError for missing or
    damaged files."""
    (arguments,) = StrictParser((RunReportArguments,), description=__doc__).parse(argv)
    from llava_rlhf.reporting.page import run_names
    from llava_rlhf.reporting.report import captions_of, moved_captions, read_for_report

    runs = read_for_report(arguments)
    if arguments.pairs is not None:
        from llava_rlhf.evaluation.judged_pairs import judge_quality  # brings SciPy

        captions, moved = captions_of(arguments, runs), moved_captions(arguments, runs)
        found = judge_quality(arguments.pairs, captions, arguments.worst_pairs, moved)
        return Report(arguments, runs, quality=found)
    if not arguments.scores:
        return Report(arguments, runs)
    from llava_rlhf.evaluation.measured import measured  # brings SciPy

    names = run_names(runs) if len(runs) > 1 else ["before", "after"]
    return Report(arguments, runs, measured(names, arguments.scores))


def run(prepared: Report) -> None:
    """Shrink the images and write the page; print what looks unhealthy."""
    from llava_rlhf.reporting.health import lines_of
    from llava_rlhf.reporting.judge_quality import judge_checks
    from llava_rlhf.reporting.report import unhealthy, write_judge_report, write_report

    if prepared.quality is not None:
        write_judge_report(prepared.arguments, prepared.runs, prepared.quality)
        for line in lines_of(judge_checks(prepared.quality)):
            print(line)
        return
    write_report(prepared.arguments, prepared.runs, prepared.held_out)
    for line in unhealthy(prepared.runs, prepared.held_out):
        print(line)


if __name__ == "__main__":
    run_program(prepare, run)
