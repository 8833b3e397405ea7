"""Where facts matter: run studies over seeds on the tiny world, print their tables, draw their pictures.

    PYTHONPATH=. python -m benchmarks.facts --studies best_of_n pairs --output_dir runs/facts [--seeds 0 1 2 3 4]

Arms are finished one after the other, seed by seed; what is finished stands in OUTPUT_DIR/results and is not run again. One
process, one thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.facts.figures import FIGURES
from benchmarks.facts.registry import STUDIES
from benchmarks.facts.settings import FactsArguments
from benchmarks.facts.stages import FINISHED, Stages
from benchmarks.facts.tables import Found, report
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_bytes_whole, write_text_whole


def prepare(argv: Sequence[str]) -> FactsArguments:
    """Parse. Raises ValueError."""
    return StrictParser((FactsArguments,), description=__doc__).parse(argv)[0]


def run(arguments: FactsArguments) -> None:
    """Run what is not there yet and report each study."""
    stages = Stages(arguments)
    stages.make_shared()
    for name in arguments.studies:
        study = STUDIES[name]
        for seed in tqdm(arguments.seeds, desc=name, unit="seed", disable=None):
            folder = stages.folder / "results" / name / str(seed)
            if (folder / FINISHED).exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            arms = []
            for arm, numbers in study.run(stages, seed):
                write_text_whole(folder / f"{arm}.arm.json", json.dumps(numbers, indent=1) + "\n")
                arms.append(arm)
            write_text_whole(folder / FINISHED, json.dumps({"arms": arms}) + "\n")
        found = read_found(stages.folder / "results" / name, arguments.seeds)
        print(report(name, study, found), flush=True)
        if arguments.pictures_dir is not None and name in FIGURES:
            target = Path(arguments.pictures_dir)
            target.mkdir(parents=True, exist_ok=True)
            write_bytes_whole(target / f"facts_{name}.png", FIGURES[name](found))


def read_found(folder: Path, seeds: Sequence[int]) -> Found:
    """arm → measure → seed → number, of seeds that are finished."""
    found: Found = {}
    for seed in seeds:
        finished = folder / str(seed) / FINISHED
        if not finished.exists():
            continue
        for arm in json.loads(finished.read_text())["arms"]:
            numbers = json.loads((finished.parent / f"{arm}.arm.json").read_text())
            for measure, value in numbers.items():
                found.setdefault(arm, {}).setdefault(measure, {})[seed] = value
    return found


if __name__ == "__main__":
    run_program(prepare, run)
