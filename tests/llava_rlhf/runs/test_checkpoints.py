"""A checkpoint is there whole or not at all."""

from __future__ import annotations

import logging

import pytest

from llava_rlhf.runs import checkpoints
from llava_rlhf.runs.checkpoints import (
    COMPLETE,
    STAGING,
    checkpoint_folder,
    complete_checkpoints,
    delete_oldest,
    resume_folder,
    step_of,
    written_whole,
)


def write(run, step, text="weights"):
    with written_whole(checkpoint_folder(run, step)) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text(text)


def test_a_checkpoint_has_its_files_and_its_marker_and_leaves_no_staging_folder(tmp_path):
    write(tmp_path, 3)
    assert {path.name for path in tmp_path.rglob("*")} == {"checkpoint-3", COMPLETE, "part", "weights"}


def test_checkpoints_are_ordered_by_number_not_by_text(tmp_path):
    for step in (2, 100, 10):
        write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == [2, 10, 100]


def test_an_incomplete_folder_is_skipped_with_a_message(tmp_path, caplog):
    write(tmp_path, 1)
    write(tmp_path, 2)
    (checkpoint_folder(tmp_path, 2) / COMPLETE).unlink()
    with caplog.at_level(logging.WARNING):
        assert resume_folder("auto", tmp_path) == checkpoint_folder(tmp_path, 1)
    assert "checkpoint-2" in caplog.text and COMPLETE in caplog.text


def test_an_exception_while_writing_leaves_the_older_state_and_no_half_folder(tmp_path):
    write(tmp_path, 1, "old")
    for step in (1, 2):  # replacing an older folder, and adding one
        with (
            pytest.raises(OSError, match="disk full"),
            written_whole(checkpoint_folder(tmp_path, step)) as folder,
        ):
            (folder / "weights").write_text("half")
            raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert (tmp_path / "checkpoint-1" / "part" / "weights").read_text() == "old"
    assert (tmp_path / "checkpoint-1" / COMPLETE).is_file()


def test_a_failing_flush_leaves_the_older_state(tmp_path, monkeypatch):
    write(tmp_path, 1, "old")

    def fail(path):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "_flush", fail)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path, 1, "new")
    assert (tmp_path / "checkpoint-1" / "part" / "weights").read_text() == "old"
    assert not (tmp_path / STAGING).exists()


def test_a_rewritten_checkpoint_replaces_the_older_one(tmp_path):
    write(tmp_path, 1, "old")
    write(tmp_path, 1, "new")
    assert (tmp_path / "checkpoint-1" / "part" / "weights").read_text() == "new"


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3]), (1, [3]), (2, [2, 3]), (5, [1, 2, 3])])
def test_delete_oldest_keeps_the_newest(tmp_path, keep, left):
    for step in (1, 2, 3):
        write(tmp_path, step)
    delete_oldest(tmp_path, keep)
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == left


@pytest.mark.parametrize(
    ("keep", "best", "left"), [(1, 1, [1, 4]), (2, 1, [1, 4]), (2, 4, [3, 4]), (3, 2, [2, 3, 4])]
)
def test_the_best_one_stays_beside_the_newest(tmp_path, keep, best, left):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    delete_oldest(tmp_path, keep, best=checkpoint_folder("the same run elsewhere", best))
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == left


def test_an_incomplete_later_folder_does_not_count_as_the_newest(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    checkpoint_folder(tmp_path, 3).mkdir()
    delete_oldest(tmp_path, keep=1)
    assert [step_of(folder) for folder in complete_checkpoints(tmp_path)] == [2]


def test_a_kill_while_deleting_leaves_no_half_checkpoint_under_its_name(tmp_path, monkeypatch):
    write(tmp_path, 1)
    write(tmp_path, 2)

    def killed(folder, ignore_errors=False):
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_oldest(tmp_path, keep=1)
    assert not checkpoint_folder(tmp_path, 1).exists()
    assert complete_checkpoints(tmp_path) == [checkpoint_folder(tmp_path, 2)]


def test_where_to_continue_from(tmp_path):
    assert resume_folder("auto", tmp_path) is None
    assert resume_folder("auto", tmp_path / "absent") is None
    write(tmp_path, 4)
    write(tmp_path, 6)
    assert resume_folder("no", tmp_path / "elsewhere") is None
    assert resume_folder("auto", tmp_path) == tmp_path / "checkpoint-6"
    assert resume_folder(str(tmp_path / "checkpoint-6"), tmp_path) == tmp_path / "checkpoint-6"
    assert resume_folder(str(tmp_path / "checkpoint-4"), "elsewhere") == tmp_path / "checkpoint-4"


def test_later_checkpoints_of_an_earlier_run_are_not_mixed_with_a_new_one(tmp_path):
    write(tmp_path, 4)
    write(tmp_path, 6)
    for resume in ("no", str(tmp_path / "checkpoint-4")):
        with pytest.raises(ValueError, match=r"checkpoint-6 is from an earlier run"):
            resume_folder(resume, tmp_path)


def test_a_named_folder_that_is_no_complete_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be checkpoint-<step>"):
        resume_folder(str(tmp_path), tmp_path)
    with pytest.raises(ValueError, match=f"checkpoint-9: not a complete checkpoint .*{COMPLETE}"):
        resume_folder(str(tmp_path / "checkpoint-9"), tmp_path)
