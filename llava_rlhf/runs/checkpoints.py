"""What a checkpoint is: a folder written whole or not at all.

A folder is filled under a temporary name, flushed to disk, marked with `COMPLETE` and then renamed, so that a kill at
any moment leaves the older checkpoints as they were.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_rlhf.runs.save_errors import (
    explaining_failures,
    explaining_full_disks,
    folder_bytes,
    readable_bytes,
)

if TYPE_CHECKING:  # folders are written by programs that have no use for torch, too
    from torch import nn

COMPLETE = "COMPLETE"
STATE = "state.json"  # of a PPO checkpoint: steps done, the KL controller, the critic's units
STAGING = ".incomplete"
_NAME = re.compile(r"checkpoint-(\d+)")

logger = logging.getLogger(__name__)


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    """Where the state after `step` steps is kept."""
    return Path(output_dir) / f"checkpoint-{step}"


def step_of(folder: str | Path) -> int:
    """Number of finished steps that a checkpoint folder holds, from its name. Raises ValueError for another name."""
    match = _NAME.fullmatch(Path(folder).name)
    if match is None:
        raise ValueError(f"{folder} is not a checkpoint folder: its name must be checkpoint-<step>")
    return int(match.group(1))


def staging_folder(output_dir: str | Path) -> Path:
    """Where a checkpoint is written before it is renamed; on the same file system."""
    return Path(output_dir) / STAGING


def publish(staged: Path, final: Path) -> None:
    """Flush a filled folder to disk, mark it complete and give it its name, replacing what stood there."""
    _flush_files(staged)
    marker = staged / COMPLETE
    marker.write_text("all files of this folder were written\n")
    _flush(marker)
    _flush_folders(staged)
    if final.exists():
        discard(final)
    os.replace(staged, final)
    _flush(final.parent)


def discard(folder: Path) -> None:
    """Delete a checkpoint; a kill in the middle leaves no half one under its name."""
    doomed = staging_folder(folder.parent) / f"deleted-{folder.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    doomed.parent.mkdir(exist_ok=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)
    _remove_if_empty(doomed.parent)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty staging folder; it becomes `final`, which must not exist, or on an exception is removed.

    Raises SaveError when the file system takes nothing more. For folders that other programs read: there is no `COMPLETE` in them, that they have their name is enough.
    """
    staged = staging_folder(final.parent) / final.name
    try:
        with explaining_full_disks(final):
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            yield staged
            _flush_files(staged)
            _flush_folders(staged)
            os.rename(staged, final)
            _flush(final.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        _remove_if_empty(staged.parent)


@contextmanager
def written_whole(
    final: Path, writer: bool = True, barrier: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield an empty staging folder that all processes fill; it becomes `final`, or on an exception is removed.

    Args:
        final: the folder's name once it is complete.
        writer: whether this process makes, publishes and removes the folder.
        barrier: waits for all processes.
    """
    staged = staging_folder(final.parent) / final.name
    try:
        with explaining_failures(f"the checkpoint {final.name}", final, _hint(final)):
            if writer:
                shutil.rmtree(staged.parent, ignore_errors=True)
                staged.mkdir(parents=True)
            barrier()
            if not staged.is_dir():
                raise RuntimeError(
                    f"{staged} is not there: --output_dir must be on a file system that all nodes share"
                )
            yield staged
            barrier()
            if writer:
                publish(staged, final)
    finally:
        if writer:
            shutil.rmtree(staged.parent, ignore_errors=True)
    barrier()


@contextmanager
def written_into(folder: Path) -> Iterator[Path]:
    """Yield an empty staging folder; what is put there moves into `folder`, file by file, once all of it is written."""
    staged = staging_folder(folder) / "result"
    with explaining_failures("the result of the run", folder, _hint(folder / "result")):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        yield staged
        _flush_files(staged)
        targets = {
            source: folder / source.relative_to(staged) for source in staged.rglob("*") if source.is_file()
        }
        for source, target in sorted(targets.items()):
            target.parent.mkdir(exist_ok=True)
            os.replace(source, target)
        for changed in {folder, *(target.parent for target in targets.values())}:
            _flush(changed)
        shutil.rmtree(staged.parent)


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoint folders of a run, oldest first; incomplete ones are skipped with a message."""
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        if not _NAME.fullmatch(folder.name):
            continue
        if (folder / COMPLETE).is_file():
            found.append(folder)
        else:
            logger.warning(
                "skipping %s: it lacks the file %s, so it was not written to the end", folder, COMPLETE
            )
    return sorted(found, key=step_of)


def resume_folder(resume: str, output_dir: str | Path) -> Path | None:
    """The checkpoint to continue from, or None to start afresh.

    Args:
        resume: `auto` (newest complete one in `output_dir`, if any), `no`, or a folder.
        output_dir: the run folder.

    Raises:
        ValueError: the named folder is no complete checkpoint, or `output_dir` holds checkpoints of later steps.
    """
    found = complete_checkpoints(output_dir)
    if resume == "auto":
        return found[-1] if found else None
    folder = None if resume == "no" else Path(resume)
    if folder is not None and not (folder / COMPLETE).is_file():
        step_of(folder)
        raise ValueError(f"--resume {resume}: not a complete checkpoint (it lacks the file {COMPLETE})")
    step = 0 if folder is None else step_of(folder)
    later = [other for other in found if step_of(other) > step]
    if later:
        raise ValueError(
            f"--resume {resume}: {later[-1]} is from an earlier run and would be taken for the newest state of this "
            "one; choose another --output_dir, or move it away"
        )
    return folder


def delete_oldest(output_dir: str | Path, keep: int, best: str | Path | None = None) -> None:
    """Delete all but the `keep` newest complete checkpoints and the `best` one, which counts; `keep` 0 deletes none.

    The newest is never deleted: with `keep` 1 and an older best, two stay.
    """
    complete = complete_checkpoints(output_dir)
    kept = [folder for folder in complete if best and folder.name == Path(best).name]
    for folder in reversed(complete):
        if folder not in kept and (folder == complete[-1] or len(kept) < keep):
            kept.append(folder)
    for folder in complete if keep > 0 else ():
        if folder not in kept:
            discard(folder)


def leave_frozen_weights_out(module: nn.Module) -> None:
    """Let `state_dict` of a module hold each trained weight once and nothing else; `load_state_dict` asks for no more.

    DeepSpeed writes a state dict; its own `exclude_frozen_parameters` misses weights that have several names, as those of
    a base have that roles share.
    """
    module.register_state_dict_post_hook(_drop_frozen)
    module.register_load_state_dict_post_hook(_excuse_frozen)


def _trained_names(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    kept = {prefix + name for name in _trained_names(module)}
    for name in [name for name in state if name.startswith(prefix) and name not in kept]:
        del state[name]


def _excuse_frozen(module: nn.Module, incompatible: NamedTuple) -> None:
    trained = _trained_names(module)
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name in trained]


def _hint(final: Path) -> str:
    """How much a checkpoint takes, told by the newest one, and that the older ones are as they were."""
    older = complete_checkpoints(final.parent)
    if not older:
        return ""
    size = readable_bytes(folder_bytes(older[-1]))
    return f" {older[-1].name} takes {size}; it and the older ones are as they were (--save_total_limit keeps fewer)."


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _flush_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _flush(path)


def _flush_folders(folder: Path) -> None:
    """The names of new files are content of their folders."""
    for path in [folder, *sorted(folder.rglob("*"))]:
        if path.is_dir():
            _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
