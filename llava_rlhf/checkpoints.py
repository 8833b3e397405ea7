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
from typing import Any, NamedTuple

from torch import nn

COMPLETE = "COMPLETE"
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
    if final.exists():
        shutil.rmtree(final)
    os.replace(staged, final)
    _flush(final.parent)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty staging folder; it becomes `final`, which must not exist, or on an exception is removed.

    For folders that other programs read: there is no `COMPLETE` in them, that they have their name is enough.
    """
    staged = staging_folder(final.parent) / final.name
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        _flush_files(staged)
        os.rename(staged, final)
        _flush(final.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if not any(staged.parent.iterdir()):
            staged.parent.rmdir()


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
    if writer:
        shutil.rmtree(staged.parent, ignore_errors=True)
        staged.mkdir(parents=True)
    barrier()
    if not staged.is_dir():
        raise RuntimeError(
            f"{staged} is not there: --output_dir must be on a file system that all nodes share"
        )
    try:
        yield staged
        barrier()
        if writer:
            publish(staged, final)
    finally:
        if writer:
            shutil.rmtree(staged.parent, ignore_errors=True)
    barrier()


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


def delete_oldest(output_dir: str | Path, keep: int) -> None:
    """Delete all but the `keep` newest complete checkpoints; `keep` 0 deletes none."""
    if keep > 0:
        for folder in complete_checkpoints(output_dir)[:-keep]:
            shutil.rmtree(folder)


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


def _flush_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
