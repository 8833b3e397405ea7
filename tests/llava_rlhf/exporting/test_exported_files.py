"""Which files an export has besides weights, and who may read them."""

from __future__ import annotations

import shutil

from tests.llava_rlhf.exporting.exports import export


def test_weights_have_the_permissions_of_any_new_file(exported, tmp_path):
    (other := tmp_path / "other").touch()
    assert (exported.merged / "model.safetensors").stat().st_mode == other.stat().st_mode


def test_the_record_of_how_the_bundled_base_was_made_stays_there(exported, tmp_path):
    base = shutil.copytree(exported.base, tmp_path / "base")
    (base / "build.json").write_text("{}")
    (base / "notes.txt").write_text("kept")
    merged = export(base, exported.run, tmp_path / "merged")
    assert not (merged / "build.json").exists() and (merged / "notes.txt").read_text() == "kept"
