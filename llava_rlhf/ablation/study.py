"""The runs of a study: where each lies, which are done, and what they were made with."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rlhf.ablation.design import Arm
from llava_rlhf.runs.run_folder import write_text_whole

SEED_SCRIPT, ARM_SCRIPT = "ablation_seed.sh", "ablation_arm.sh"
STUDY_FILE, DONE_FILE = "study.json", "ablation.json"
# Variables that every stage is given or must not have.
OWN = frozenset("SEED RUN_DIR OUTPUT_DIR FACTS ADAPTER DRY_RUN".split())
# They say where and how a run is started. The number of processes is recorded: batches and what is drawn depend on it.
NOT_RECORDED = OWN | frozenset(
    "NAME ROOT PYTHON LAUNCHER NODE_RANK MASTER_ADDR MASTER_PORT OMP_NUM_THREADS REPORT_TO DATALOADER_WORKERS SCRIPTS "
    "DESIGN FACTORS SEEDS JOBS MEASURES PART_OF CUDA_VISIBLE_DEVICES".split()
)


@dataclass(frozen=True)
class Stage:
    """One script to run: what the arms of a seed share, or one arm.

    Attributes:
        name: for people.
        script: path.
        flags, variables: passed to it.
        folder: what it writes; `DONE_FILE` in it says that it is done.
        log: its output.
        needs: the folder of a stage that must be done before.
    """

    name: str
    script: Path
    flags: tuple[str, ...]
    variables: Mapping[str, str]
    folder: Path
    log: Path
    needs: Path | None = None

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return (self.folder / DONE_FILE).is_file()

    @property
    def ready(self) -> bool:
        """Whether it can be started."""
        return self.needs is None or (self.needs / DONE_FILE).is_file()

    @property
    def environment(self) -> dict[str, str]:
        """Ours, but for the variables that are its own."""
        return (
            {name: value for name, value in os.environ.items() if name not in OWN}
            | {"PART_OF": "ablate"}
            | self.variables
        )

    def mark_done(self, seconds: float) -> None:
        """Write `DONE_FILE`."""
        record = {"variables": dict(self.variables), "flags": list(self.flags), "seconds": round(seconds, 1)}
        write_text_whole(self.folder / DONE_FILE, json.dumps(record, indent=1) + "\n")


def make_stages(output_dir: Path, scripts: Path, seeds: Sequence[int], arms: Sequence[Arm]) -> list[Stage]:
    """All stages: of each seed first what is shared, then its arms."""
    stages = []
    for seed in seeds:
        shared = seed_folder(output_dir, seed)
        common = {"SEED": str(seed), "RUN_DIR": str(shared)}
        logs = output_dir / "logs" / shared.name
        stages.append(
            Stage(f"seed {seed}", scripts / SEED_SCRIPT, (), common, shared, logs.with_suffix(".log"))
        )
        for arm in arms:
            folder = arm_folder(output_dir, seed, arm)
            variables = {name: value for level in arm.levels() for name, value in level.variables.items()}
            stages.append(
                Stage(
                    f"seed {seed}, {arm.name}",
                    scripts / ARM_SCRIPT,
                    tuple(flag for level in arm.levels() for flag in level.flags),
                    common | variables | {"OUTPUT_DIR": str(folder)},
                    folder,
                    logs / f"{arm.name}.log",
                    needs=shared,
                )
            )
    return stages


def seed_folder(output_dir: Path, seed: int) -> Path:
    """What the arms of a seed share."""
    return output_dir / f"seed-{seed}"


def arm_folder(output_dir: Path, seed: int, arm: Arm) -> Path:
    """The PPO run of one arm."""
    return seed_folder(output_dir, seed) / "arms" / arm.name


def settings_of(scripts: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What all runs of a study depend on besides seed and arm: the scripts, and their variables that are set.

    Scripts are those of the folder, and what they name elsewhere as `…/../NAME.sh` or `…/../FOLDER/NAME.sh`.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(scripts.glob("*.sh"))}
    for name in sorted(set(re.findall(r"/(\.\./[\w./-]+\.sh)", "".join(texts.values())))):
        if (scripts / name).is_file():
            texts[name] = (scripts / name).read_text(encoding="utf-8")
    around = [path.read_text(encoding="utf-8") for path in scripts.parent.glob("*/*.sh")]
    known = set(re.findall(r"\$\{(\w+):?[-+]", "".join([*around, *texts.values()]))) - NOT_RECORDED
    return {
        "scripts": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
        "variables": {name: environment[name] for name in sorted(known & environment.keys())},
    }


def check_settings(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Compare with what earlier runs in this folder were made with; before the first is done, settings may change.

    Raises:
        ValueError: they differ.
    """
    path = output_dir / STUDY_FILE
    if path.is_file() and any(output_dir.glob(f"seed-*/{DONE_FILE}")):
        try:
            then = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                f"{group}: {name}: then {_short(then[group].get(name))}, now {_short(settings[group].get(name))}"
                for group in settings
                for name in sorted({*then[group], *settings[group]})
                if then[group].get(name) != settings[group].get(name)
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not the record of a study ({error!r}); move it away") from None
        if changed:
            raise ValueError(
                f"--output_dir {output_dir} holds runs that were made with other settings ({'; '.join(changed)}). Their "
                "numbers do not belong together: choose another folder, or add --allow_changed_arguments True if you "
                "know that it makes no difference"
            )


def write_settings(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Record what the runs are made with."""
    write_text_whole(output_dir / STUDY_FILE, json.dumps(settings, indent=1) + "\n")


def _short(value: str | None) -> str:
    return "not set" if value is None else value[:16]
