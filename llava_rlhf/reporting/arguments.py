"""Settings of a run's page."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class RunReportArguments:
    """Which run, and how much of it."""

    _argument_group_name = "report"

    run: str = field(metadata={"help": "Output folder of a training program; it may still be running."})
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder of the images. Default: the run's own; without it images have names only."},
    )
    output_file: str | None = field(
        default=None, metadata={"help": "HTML file to write. Default: report.html in the run's folder."}
    )
    max_rollouts: int = field(
        default=16,
        metadata={"help": "Rollouts shown of each step: half its lowest and half its highest scores."},
    )
    whole_steps: int = field(default=2, metadata={"help": "So many last steps are shown whole."})
    max_rows: int = field(default=3000, metadata={"help": "Rollouts shown in all, at most."})
    max_images: int = field(default=200, metadata={"help": "Images in the page, at most; 0: names only."})

    def __post_init__(self):
        for name in ("max_rollouts", "whole_steps", "max_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: must be 0 or more")
        if self.max_rows < 1:
            raise ValueError(f"--max_rows {self.max_rows}: must be 1 or more")
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"--image_folder {self.image_folder}: there is no such folder")

    @property
    def target(self) -> Path:
        """The file to write."""
        return Path(self.output_file) if self.output_file else Path(self.run) / "report.html"
