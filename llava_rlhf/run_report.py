"""Write one HTML page on a training run, while it goes on or afterwards.

    python -m llava_rlhf.run_report --run RUN_FOLDER

Curves of every metric; of a PPO run also what the reward is made of, and its rollouts in a table.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_rlhf.reporting.page import run_page, thumbnails
from llava_rlhf.reporting.run_data import RunData, last_written, read_run
from llava_rlhf.reporting.selection import Bounds
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole


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


def prepare(argv: Sequence[str]) -> tuple[RunReportArguments, RunData]:
    """Parse the command line and read the run. Raises ValueError for missing or damaged files."""
    arguments: RunReportArguments = StrictParser((RunReportArguments,), description=__doc__).parse(argv)[0]
    if not arguments.target.parent.is_dir() and arguments.output_file:
        raise ValueError(f"--output_file {arguments.output_file}: its folder does not exist; create it")
    bounds = Bounds(arguments.max_rollouts, arguments.whole_steps, arguments.max_rows)
    return arguments, read_run(Path(arguments.run), bounds)


def run(prepared: tuple[RunReportArguments, RunData]) -> None:
    """Draw the figures, shrink the images and write the page."""
    arguments, found = prepared
    images, folder = {}, _image_folder(arguments, found)
    if folder is not None:
        images, notes = thumbnails(found.rows, folder, arguments.max_images)
        found.notes += notes
    page = run_page(found, images, last_written(Path(arguments.run)))
    write_text_whole(arguments.target, page)
    print(f"wrote {arguments.target} ({len(page.encode()) / 1e6:.1f} MB, {len(found.rows)} rollouts)")


def _image_folder(arguments: RunReportArguments, found: RunData) -> Path | None:
    if arguments.max_images == 0:
        return None
    own = found.arguments.get("DataArguments", {}).get("image_folder")
    folder = arguments.image_folder or own
    return Path(folder) if folder and Path(folder).is_dir() else None


if __name__ == "__main__":
    run_program(prepare, run)
