"""Settings of `llava_rlhf.ablate`."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llava_rlhf.ablation.design import CHOICES, FACTORS, NOT_TOGETHER, OFFERED
from llava_rlhf.ablation.study import ARM_SCRIPT, SEED_SCRIPT
from llava_rlhf.runs.output_place import check_writable


@dataclass
class AblationArguments:
    """Which runs, and where."""

    _argument_group_name = "ablation"

    output_dir: str = field(
        metadata={"help": "Folder of the study; runs that are done there are not done again."}
    )
    scripts: str = field(metadata={"help": f"Folder of the model size, with {SEED_SCRIPT} and {ARM_SCRIPT}."})
    design: Literal["full", "one_off"] = field(
        default="full",
        metadata={
            "help": "full: every combination; one_off: the recipe, and what differs from it in one ingredient."
        },
    )
    factors: list[str] = field(
        default_factory=lambda: list(FACTORS),
        metadata={
            "help": f"Ingredients that vary: {', '.join(FACTORS)}; besides, what can be added: {', '.join(OFFERED)}. The others "
            "stay as in the recipe."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; at least two for intervals."}
    )
    jobs: int = field(default=1, metadata={"help": "Runs at a time."})
    measures: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns of the tables and panels of the picture; all measures if none is named."},
    )
    report_only: bool = field(
        default=False,
        metadata={"help": "Start nothing: tables and picture of what is done, also while the study runs."},
    )
    allow_changed_arguments: bool = field(
        default=False,
        metadata={"help": "Go on in a folder whose runs were made with other scripts or variables."},
    )

    def __post_init__(self):
        for name in ("factors", "seeds", "measures"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"--{name} {' '.join(map(str, values))}: something is named twice")
        unknown = [name for name in self.factors if name not in CHOICES]
        if unknown or not self.factors:
            raise ValueError(f"--factors {' '.join(unknown)}: choose from {', '.join(CHOICES)}")
        for pair, why in NOT_TOGETHER.items():
            if self.design == "full" and set(pair) <= set(self.factors):
                raise ValueError(
                    f"--factors {' '.join(self.factors)}: {' and '.join(pair)} can't be combined ({why}); leave one of them out, "
                    "or use --design one_off"
                )
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: one or more numbers from 0 on")
        if self.jobs < 1:
            raise ValueError(f"--jobs {self.jobs}: must be at least 1")
        for script in (SEED_SCRIPT, ARM_SCRIPT):
            if not (Path(self.scripts) / script).is_file():
                raise ValueError(
                    f"--scripts {self.scripts}: has no {script}; scripts/tiny shows what it has to do"
                )
        check_writable("--output_dir", self.output_dir)
