"""Take the method apart: PPO with and without each of its ingredients, over seeds, and what each of them does.

    python -m llava_rlhf.ablate --scripts scripts/tiny --output_dir runs/ablation --jobs 2

Runs `ablation_seed.sh` of the size once a seed, then `ablation_arm.sh` for every combination of ingredients. Writes
ablation.md, ablation.json and ablation.png. The same command goes on where it was stopped; docs/ablation.md has results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rlhf.ablation.arguments import AblationArguments
from llava_rlhf.ablation.design import Arm, check_recipe, make_arms
from llava_rlhf.ablation.figure import effects_figure
from llava_rlhf.ablation.results import Numbers, read_numbers
from llava_rlhf.ablation.scheduler import Scheduler, last_lines, locked, wait_for_children
from llava_rlhf.ablation.study import Stage, check_settings, make_stages, settings_of, write_settings
from llava_rlhf.ablation.tables import as_json, markdown
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_bytes_whole, write_text_whole
from llava_rlhf.runs.stopping import StoppedBySignal


@dataclass(frozen=True)
class AblationRun:
    """A checked study."""

    arguments: AblationArguments
    output_dir: Path
    settings: Mapping[str, Any]
    arms: Sequence[Arm]
    stages: Sequence[Stage]


def prepare(argv: Sequence[str]) -> AblationRun:
    """Parse, and lay out the runs. Raises ValueError."""
    arguments = StrictParser((AblationArguments,), description=__doc__).parse(argv)[0]
    output_dir, scripts = Path(arguments.output_dir).absolute(), Path(arguments.scripts).absolute()
    settings = settings_of(scripts)
    check_recipe(arguments.factors, settings["variables"])
    if not arguments.allow_changed_arguments and not arguments.report_only:
        check_settings(output_dir, settings)
    arms = make_arms(arguments.design, arguments.factors)
    stages = make_stages(output_dir, scripts, arguments.seeds, arms)
    return AblationRun(arguments, output_dir, settings, arms, stages)


def run(prepared: AblationRun) -> None:
    """Run what is not done yet, then write tables and picture of all that is.

    Raises:
        SystemExit: runs failed, after everything that does not need them was done.
    """
    failed: Sequence[Stage] = ()
    if not prepared.arguments.report_only:
        failed = _run_stages(prepared)
    for stage in failed:
        print(f"\n{stage.name} failed; the end of {stage.log}:\n{last_lines(stage.log)}")
    _report(prepared)
    if failed:
        raise SystemExit(
            f"error: {len(failed)} of {len(prepared.stages)} runs failed; the same command tries them again"
        )


def _run_stages(prepared: AblationRun) -> list[Stage]:
    try:
        with locked(prepared.output_dir) as lock:
            write_settings(prepared.output_dir, prepared.settings)
            return Scheduler(prepared.stages, prepared.arguments.jobs, lock).run()
    except StoppedBySignal:
        wait_for_children(prepared.output_dir)
        raise


def _report(prepared: AblationRun) -> None:
    try:
        numbers = read_numbers(prepared.output_dir, prepared.arguments.seeds, prepared.arms)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if not any(numbers.results.values()):
        print("no arm is done yet: nothing to report")
        return
    measures = _measures(prepared.arguments.measures, numbers)
    text = markdown(numbers, measures)
    write_text_whole(prepared.output_dir / "ablation.md", text)
    write_text_whole(prepared.output_dir / "ablation.json", as_json(numbers))
    write_bytes_whole(prepared.output_dir / "ablation.png", effects_figure(numbers, measures))
    print(text.split("## Together")[0].split("## Every arm")[0])
    print(f"wrote ablation.md, ablation.json and ablation.png in {prepared.output_dir}")


def _measures(wanted: Sequence[str], numbers: Numbers) -> list[str]:
    unknown = [name for name in wanted if name not in numbers.meanings]
    if unknown:
        raise SystemExit(
            f"error: --measures {' '.join(unknown)}: no run has it; there are {', '.join(numbers.meanings)}"
        )
    return list(wanted or numbers.meanings)


if __name__ == "__main__":
    run_program(prepare, run)
