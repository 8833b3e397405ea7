"""An output that can't be written is refused before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rlhf import convert_checkpoint
from llava_rlhf.conversion.adapter_layouts import POLICY_KIND
from llava_rlhf.runs.output_place import SMALL_FILES, check_output
from llava_rlhf.runs.save_errors import readable_bytes
from tests.support.tiny_data import command_line


@pytest.fixture
def prepare(checkpoints, small_base):
    """prepare(output): check the conversion of a policy."""

    def _prepare(output):
        argv = command_line(input=checkpoints[POLICY_KIND], base_model=small_base, output=output)
        return convert_checkpoint.prepare(argv)

    return _prepare


def test_what_stands_in_the_way_is_refused(prepare, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for output, message in (
        (tmp_path / "file", "file exists already; choose another"),
        (tmp_path / "link", r"link exists already \(a symbolic link to nothing\)"),
        (tmp_path / "link" / "below", "below can't be made: .*link is no directory"),
        (tmp_path / "file" / "some" / "folder", "folder can't be made: .*file is no directory"),
        # Not even an administrator can make files there.
        (Path("/proc/some/folder"), "folder can't be made: /proc can't be written to"),
    ):
        with pytest.raises(ValueError, match=f"--output .*{message}"):
            prepare(output)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_too_small_is_refused_by_prepare(prepare, pair, checkpoints, tmp_path, monkeypatch):
    policy = prepare(tmp_path / "new")
    adapter = checkpoints[POLICY_KIND] / "lora_default" / "adapter_model.bin"
    assert policy.plan.nbytes == adapter.stat().st_size
    needed = policy.plan.nbytes + SMALL_FILES
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed - 1}))
    with pytest.raises(ValueError, match=r"--output .*new needs 16\.0 MB, .* has 16\.0 MB left"):
        prepare(tmp_path / "new")
    argv = command_line(input=pair.source, vision_tower=pair.tower, output=tmp_path / "new")
    with pytest.raises(ValueError, match=r"new needs 16\.\d MB, .* has 16\.0 MB left"):
        convert_checkpoint.prepare(argv)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed}))
    prepare(tmp_path / "new")


def test_a_relative_output_and_several_new_folders_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output(Path("some/new/folder"), 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (223_000, "223.0 kB"),
        (26_400_000_000, "26.4 GB"),
    ],
)
def test_sizes_can_be_read(size, text):
    assert readable_bytes(size) == text
