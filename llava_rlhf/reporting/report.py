"""One page on a run, from its folder to an HTML file."""

from __future__ import annotations

from pathlib import Path

from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.reporting.page import run_page, thumbnails
from llava_rlhf.reporting.run_data import RunData, last_written, read_run
from llava_rlhf.reporting.selection import Bounds
from llava_rlhf.runs.run_folder import write_text_whole


def read_for_report(arguments: RunReportArguments) -> RunData:
    """Read the run. Raises ValueError for missing or damaged files."""
    if not arguments.target.parent.is_dir() and arguments.output_file:
        raise ValueError(f"--output_file {arguments.output_file}: its folder does not exist; create it")
    bounds = Bounds(arguments.max_rollouts, arguments.whole_steps, arguments.max_rows)
    return read_run(Path(arguments.run), bounds)


def write_report(arguments: RunReportArguments, found: RunData) -> None:
    """Draw the figures, shrink the images and write the page."""
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
