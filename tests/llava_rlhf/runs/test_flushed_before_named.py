"""Nothing bears its final name before it is whole and on the disk: the system calls of a writer, recorded on real files.

What a power failure leaves is what was flushed: a file's bytes at its last fsync, a folder's names at its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llava_rlhf.runs.checkpoints import COMPLETE, checkpoint_folder, new_folder, written_into, written_whole


class Disk:
    """Watches `os.fsync`, `os.replace` and `os.rename`, which still do their work.

    Attributes:
        flushed: inode → what its last fsync made safe: a file's bytes, or a folder's names.
        moves: (from, to) in order, each with the paths below `from` that were not safe at that moment.
        order: names of files and folders in the order of their fsync.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.flushed: dict[int, bytes | set[str]] = {}
        self.moves: list[tuple[Path, Path, list[str]]] = []
        self.order: list[str] = []
        self._fsync, moves = os.fsync, {"replace": os.replace, "rename": os.rename}
        monkeypatch.setattr(os, "fsync", self._flush)
        for name, real in moves.items():
            monkeypatch.setattr(os, name, lambda source, target, real=real: self._move(real, source, target))

    def unsafe(self, root: Path) -> list[str]:
        """What of `root` and below would be lost, by name."""
        below = sorted(root.rglob("*")) if root.is_dir() else []
        return [
            path.name for path in [root, *below] if self.flushed.get(path.stat().st_ino) != _content(path)
        ]

    def _flush(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.flushed[os.fstat(descriptor).st_ino] = _content(path)
        self.order.append(path.name)

    def _move(self, real, source, target) -> None:
        source, target = Path(source), Path(target)
        self.moves.append((source, target, self.unsafe(source)))
        real(source, target)


def _content(path: Path) -> bytes | set[str]:
    return set(os.listdir(path)) if path.is_dir() else path.read_bytes()


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


def fill(folder: Path) -> None:
    (folder / "lora_policy").mkdir()
    (folder / "lora_policy" / "adapter_model.safetensors").write_bytes(b"adapter")
    (folder / "head.safetensors").write_bytes(b"head")


FILES = {"lora_policy/adapter_model.safetensors", "head.safetensors"}


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_is_flushed_then_marked_then_named(tmp_path, disk):
    final = checkpoint_folder(tmp_path, 3)
    for _ in range(2):  # the second replaces the first
        disk.order.clear()
        with written_whole(final) as staged:
            fill(staged)
            (staged / "head.safetensors").write_bytes(b"head, written again")
        marked = disk.order.index(COMPLETE)
        assert {"adapter_model.safetensors", "head.safetensors"} <= set(disk.order[:marked])
        source, target, unsafe = disk.moves[-1]
        assert (source, target, unsafe) == (staged, final, [])
        assert files_below(final) == FILES | {COMPLETE}
        assert disk.order[marked + 1 :][-1] == tmp_path.name  # the new name too


def test_a_checkpoint_is_not_marked_before_the_last_byte_is_safe(tmp_path, disk, monkeypatch):
    flush, seen = os.fsync, []

    def looking(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((path.name, list(tmp_path.rglob(COMPLETE)) != []))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", looking)
    with written_whole(checkpoint_folder(tmp_path, 1)) as staged:
        fill(staged)
    assert [marked for name, marked in seen if name.endswith(".safetensors")] == [False, False]


def test_a_result_moves_once_all_of_it_is_flushed(tmp_path, disk):
    with written_into(tmp_path) as staged:
        fill(staged)
        assert files_below(tmp_path) == {str(staged.relative_to(tmp_path) / name) for name in FILES}
        assert disk.moves == []
    assert [unsafe for _, _, unsafe in disk.moves] == [[], []]
    assert (
        {str(target.relative_to(tmp_path)) for _, target, _ in disk.moves} == FILES == files_below(tmp_path)
    )
    # Not one file moved before another was safe, and their new names are.
    assert set(disk.order[:2]) == {Path(name).name for name in FILES}
    assert {tmp_path.name, "lora_policy"} <= set(disk.order[2:])


def test_a_result_that_fails_half_way_moves_nothing(tmp_path, disk):
    (tmp_path / "head.safetensors").write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), written_into(tmp_path) as staged:
        fill(staged)
        raise ZeroDivisionError
    assert disk.moves == [] and (tmp_path / "head.safetensors").read_bytes() == b"older"
    assert not (tmp_path / "lora_policy").exists()


def test_a_new_folder_is_named_once_all_of_it_is_flushed(tmp_path, disk):
    final = tmp_path / "exported"
    with new_folder(final) as staged:
        fill(staged)
        assert not final.exists()
    assert disk.moves == [(staged, final, [])]
    assert files_below(tmp_path) == {f"exported/{name}" for name in FILES}
    assert disk.order[-1] == tmp_path.name


def test_a_new_folder_that_fails_half_way_never_gets_its_name(tmp_path, disk):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "exported") as staged:
        fill(staged)
        raise ZeroDivisionError
    assert disk.moves == [] and list(tmp_path.iterdir()) == []
