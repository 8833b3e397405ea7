"""Where a run starts: afresh, from a checkpoint made under the same settings, or not at all because it is finished."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_rlhf.runs.arguments import RunArguments
from llava_rlhf.runs.changes import differences, lowered_differences
from llava_rlhf.runs.checkpoints import resume_folder, staging_folder
from llava_rlhf.runs.run_folder import write_arguments, write_text_whole
from llava_rlhf.runs.run_record import ARGUMENTS_FILE, FINISHED, LOWERED, with_defaults

logger = logging.getLogger(__name__)


def starting_point(
    run: RunArguments,
    output_dir: str | Path,
    record: Mapping[str, Any],
    settings: Iterable[Any],
    main_process: bool,
) -> Path | None:
    """The checkpoint to continue from, or None to start afresh.

    Args:
        run: `--resume` and `--allow_changed_arguments`.
        output_dir: the run folder.
        record: of this run (`run_record`).
        settings: the argument objects of which it was made.
        main_process: whether to print.

    Raises:
        ValueError: no such checkpoint, one that was made under other settings, or one with a foreign pickle.
        SystemExit: with status 0, when the run in `output_dir` is finished.
    """
    checkpoint = resume_folder(run.resume, output_dir)
    finished = Path(output_dir) / FINISHED
    over = run.resume == "auto" and finished.is_file()
    if checkpoint is None and not over:
        return None
    if checkpoint is not None:
        from llava_rlhf.runs.tensor_files import check_engine_files  # brings torch

        check_engine_files(checkpoint)
    then = with_defaults(_read_record(checkpoint or Path(output_dir)), settings)
    unchanged = _check_unchanged(
        checkpoint or Path(output_dir), then, record, run.allow_changed_arguments, main_process
    )
    if over and unchanged:
        if main_process:
            steps = json.loads(finished.read_text(encoding="utf-8"))["steps"]
            print(
                f"The run in {output_dir} is finished ({steps} steps); there is nothing left to do. To train again, choose "
                "another --output_dir."
            )
        raise SystemExit(0)
    return checkpoint


def with_lowered_batches(
    record: Mapping[str, Any], lowered: Mapping[str, int], checkpoint: Path | None, run: RunArguments
) -> Mapping[str, Any]:
    """The record with batch sizes that were lowered to fit the data, by their flags.

    Raises ValueError when the checkpoint to continue from was made with others, as another number of processes may give.
    """
    if not lowered:
        return record
    record = {**record, LOWERED: dict(lowered)}
    if checkpoint is not None:
        then = json.loads((checkpoint / ARGUMENTS_FILE).read_text(encoding="utf-8"))
        found = lowered_differences(then, record)
        if found and not run.allow_changed_arguments:
            raise ValueError(
                f"batch sizes that were lowered to fit the data differ from those of {checkpoint}: "
                + "; ".join(map(str, found))
                + "; use as many processes as then, or --allow_changed_arguments True"
            )
    return record


def mark_finished(output_dir: str | Path, steps: int) -> None:
    """Note that all files of a run's result are written; the last thing that a run does."""
    write_text_whole(Path(output_dir) / FINISHED, json.dumps({"steps": steps}) + "\n")


def open_run_folder(output_dir: str | Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run that has steps to do, and remove what a killed one was writing or deleting."""
    write_arguments(output_dir, record)
    (Path(output_dir) / FINISHED).unlink(missing_ok=True)
    shutil.rmtree(staging_folder(output_dir), ignore_errors=True)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / ARGUMENTS_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no {ARGUMENTS_FILE}: it can't be told under which settings it was made"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _check_unchanged(
    folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], allowed: bool, main_process: bool
) -> bool:
    """Compare with the record `then` of `folder`; whether nothing that matters differs. Raises ValueError unless allowed."""
    found = differences(then, now)
    serious = [difference for difference in found if difference.serious]
    if serious and not allowed:
        lines = "".join(f"\n  {difference}" for difference in serious)
        raise ValueError(
            f"this run differs from the one that wrote {folder}:{lines}\n"
            "Use the same settings, or another --output_dir, or --allow_changed_arguments True to go on with the new ones"
        )
    if found and main_process:
        lines = "".join(f"\n  {difference}" for difference in found)
        logger.warning("continuing, but not bit for bit, since this differs from %s:%s", folder, lines)
    return not serious
