"""One page on a run or several, or on a judge's pairs, from their files to an HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_utils.caption_maps import read_captions
from data_utils.problems import DataError
from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.reporting.changes import Measured
from llava_rlhf.reporting.health import health, lines_of
from llava_rlhf.reporting.judge_page import judge_page
from llava_rlhf.reporting.judge_quality import JudgeQuality
from llava_rlhf.reporting.page import run_names, run_page, thumbnails
from llava_rlhf.reporting.provenance import Link
from llava_rlhf.reporting.run_data import RunData, read_run
from llava_rlhf.reporting.selection import Bounds
from llava_rlhf.runs.run_folder import write_text_whole


def read_for_report(arguments: RunReportArguments) -> list[RunData]:
    """Read the runs. Raises ValueError for missing or damaged files."""
    bounds = Bounds(arguments.max_rollouts, arguments.whole_steps, arguments.max_rows)
    return [read_run(Path(folder), bounds) for folder in arguments.run]


def write_report(
    arguments: RunReportArguments,
    found: Sequence[RunData],
    held_out: Measured | None = None,
    beside: Sequence[Link] = (),
) -> None:
    """Shrink the images and write the page; `beside` are links to other pages."""
    images, folder = {}, _image_folder(arguments, found[0])
    if folder is not None and len(found) == 1:
        images, notes = thumbnails(found[0].rows, folder, arguments.max_images)
        found[0].notes += notes
    page = run_page(found, held_out, images, arguments.target, beside)
    write_text_whole(arguments.target, page)
    shown = f"{len(found[0].rows)} rollouts" if len(found) == 1 else f"{len(found)} runs side by side"
    print(f"wrote {arguments.target} ({len(page.encode()) / 1e6:.1f} MB, {shown})")


def captions_of(arguments: RunReportArguments, runs: Sequence[RunData]) -> Mapping[str, Sequence[str]] | None:
    """Captions to show beside pairs: those of the flag, else of the run; None where neither names a file that is there.

    Raises DataError when a file breaks the format.
    """
    path = arguments.image_to_caption_file or _own_captions(runs)
    if path is None or not Path(path).is_file():
        return None
    captions, problems = read_captions(path)
    if problems:
        raise DataError(problems)
    return captions


def moved_captions(arguments: RunReportArguments, runs: Sequence[RunData]) -> str | None:
    """The file of captions that the run names, where it would be read and is not there any more."""
    own = None if arguments.image_to_caption_file else _own_captions(runs)
    return own if own is not None and not Path(own).is_file() else None


def _own_captions(runs: Sequence[RunData]) -> str | None:
    return runs[0].setting("FactArguments", "image_to_caption_file") if runs else None


def write_judge_report(arguments: RunReportArguments, runs: Sequence[RunData], quality: JudgeQuality) -> None:
    """Shrink the images of the worst pairs and write the page."""
    images: dict[str, str] = {}
    folder = _image_folder(arguments, runs[0] if runs else None)
    notes = list(quality.notes)
    if folder is None:
        notes.append("No --image_folder was given, so that pictures have names only.")
    else:
        rows = [{"image": pair.image} for pair in quality.worst]
        images, unread = thumbnails(rows, folder, arguments.max_images)
        notes += unread
    page = judge_page(replace(quality, notes=notes), runs[0] if runs else None, images, arguments.target)
    write_text_whole(arguments.target, page)
    print(f"wrote {arguments.target} ({len(page.encode()) / 1e6:.1f} MB, {quality.pairs} pairs)")


def unhealthy(runs: Sequence[RunData], held_out: Measured | None) -> list[str]:
    """A line for each check of a run that is not fine, with the run's name where there are several."""
    lines = []
    for name, run in zip(run_names(runs), runs, strict=True):
        beginning = f"{name}: " if len(runs) > 1 else ""
        checks = health(run, held_out if len(runs) == 1 else None)
        lines += [f"{beginning}{line}" for line in lines_of(checks)]
    return lines


def _image_folder(arguments: RunReportArguments, found: RunData | None) -> Path | None:
    if arguments.max_images == 0:
        return None
    own = None if found is None else found.setting("DataArguments", "image_folder")
    folder = arguments.image_folder or own
    return Path(folder) if folder and Path(folder).is_dir() else None
