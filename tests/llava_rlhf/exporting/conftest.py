"""Policies whose answers depend on the whole picture, exported in both ways of making pictures square."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rlhf.conversion.plain_inputs import write_pictures
from tests.llava_rlhf.exporting.exports import Exported, export, write_run


@pytest.fixture(scope="session", params=["pad", pytest.param("square", marks=pytest.mark.slow)])
def exported(request, tiny_base, tmp_path_factory) -> Exported:
    """On a base whose own files crop, have no chat template and begin no text. Read-only: tests share it."""
    mode, folder = request.param, tmp_path_factory.mktemp(request.param)
    run = write_run(tiny_base, folder / "run", version="tiny", image_aspect_ratio=mode)
    return Exported(
        mode,
        tiny_base,
        run,
        export(tiny_base, run, folder / "merged"),
        export(tiny_base, run, folder / "adapter", adapter_only=True),
    )


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """One of each kind."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))
