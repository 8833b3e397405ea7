"""Settings of a run's page."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field, fields
from pathlib import Path

from llava_rlhf.runs.run_record import ARGUMENTS_FILE


@dataclass
class RunReportArguments:
    """Which runs, and how much of them."""

    _argument_group_name = "report"

    run: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Output folder of a training program, which may still be running; of several, side by side."
        },
    )
    pairs: str | None = field(
        default=None,
        metadata={
            "help": "Preferences as llava_rlhf.score has scored them: the page tells how good the reward model is as a judge; "
            "with --run, the run that trained it, also how it was trained."
        },
    )
    scores: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files of `evaluate score`: of the model before and after the run; with several runs one of each."
        },
    )
    image_to_caption_file: str | None = field(
        default=None,
        metadata={"help": "With --pairs: captions to show beside the worst ones. Default: the run's own."},
    )
    worst_pairs: int = field(
        default=30, metadata={"help": "With --pairs: so many of the lowest margins are shown."}
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder of the images. Default: the run's own; without it images have names only."},
    )
    output_file: str | None = field(
        default=None,
        metadata={
            "help": "HTML file to write. Default: report.html in the run's folder; of several comparison.html in the first's; of "
            "pairs PAIRS.html."
        },
    )
    max_rollouts: int = field(
        default=16,
        metadata={"help": "Rollouts shown of each step: half its lowest and half its highest scores."},
    )
    whole_steps: int = field(default=2, metadata={"help": "So many last steps are shown whole."})
    max_rows: int = field(default=3000, metadata={"help": "Rollouts shown in all, at most."})
    max_images: int = field(default=200, metadata={"help": "Images in the page, at most; 0: names only."})

    def __post_init__(self):
        self._check_pairs()
        for name in ("max_rollouts", "whole_steps", "max_images", "worst_pairs"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: must be 0 or more")
        if self.max_rows < 1:
            raise ValueError(f"--max_rows {self.max_rows}: must be 1 or more")
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"--image_folder {self.image_folder}: there is no such folder")
        folders = [Path(folder).resolve() for folder in self.run]
        for place, folder in enumerate(self.run):
            if folders[place] in folders[:place]:
                raise ValueError(f"--run {folder}: is named twice; name each run once")
        wanted = max(2, len(self.run))
        if self.scores and len(self.scores) != wanted:
            what = "one file for each run" if len(self.run) > 1 else "two files, before and after"
            raise ValueError(f"--scores {' '.join(self.scores)}: {len(self.scores)} given; name {what}")
        self._check_output()

    def _check_output(self) -> None:
        """Raise ValueError where the page could not be written, or would replace what it is made of."""
        target, flag = self.target, f"--output_file {self.output_file or self.target}"
        if self.output_file and not target.parent.is_dir():
            raise ValueError(f"{flag}: its folder does not exist; create it")
        if target.is_dir():
            raise ValueError(f"{flag}: is a folder; name a file in it")
        of_runs = [Path(folder) / name for folder in self.run for name in ("metrics.jsonl", ARGUMENTS_FILE)]
        read = [self.pairs, self.image_to_caption_file, *self.scores, *of_runs]
        if target.resolve() in {Path(path).resolve() for path in read if path is not None}:
            raise ValueError(f"{flag}: the page is made of this file; name another")

    def _check_pairs(self) -> None:
        if self.pairs is None:
            if not self.run:
                raise ValueError("name what to report on: --run FOLDER, or --pairs FILE of llava_rlhf.score")
            if self.image_to_caption_file is not None:
                raise ValueError(
                    "--image_to_caption_file is for --pairs; a run's rollouts have their captions"
                )
            self._refuse_changed(("worst_pairs",), "is for --pairs; a page on runs shows rollouts")
            return
        self._refuse_changed(
            ("max_rollouts", "whole_steps", "max_rows"),
            "is for a page on runs; with --pairs no rollouts are shown, and --worst_pairs says how many pairs",
        )
        if len(self.run) > 1 or self.scores:
            what = "--scores" if self.scores else f"{len(self.run)} runs"
            raise ValueError(
                f"--pairs with {what}: a page on pairs has one run at most, the one that trained the judge"
            )
        for name in ("pairs", "image_to_caption_file"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ValueError(f"--{name} {path}: no such file")

    def _refuse_changed(self, names: tuple[str, ...], why: str) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in names and value != item.default:
                raise ValueError(f"--{item.name} {value} {why}")

    @property
    def target(self) -> Path:
        """The file to write."""
        if self.output_file:
            return Path(self.output_file)
        if self.pairs is not None:
            return Path(f"{self.pairs}.html")
        return Path(self.run[0]) / ("report.html" if len(self.run) == 1 else "comparison.html")
