"""Only what a file system says becomes a message about saving."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError

from llava_rlhf.runs.save_errors import SaveError, explaining_failures, explaining_full_disks
from llava_rlhf.runs.stopping import NonFiniteError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.distributed.DistBackendError("connection closed by peer"),
        NonFiniteError("step 1: the loss is not finite"),
        RuntimeError("shapes do not match"),
    ],
)
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as raised, explaining_failures("the checkpoint", tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_is_explained(error, tmp_path):
    with (
        pytest.raises(SaveError, match=r"the checkpoint could not be written to .*Make room"),
        explaining_failures("the checkpoint", tmp_path / "run"),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
    ],
)
def test_a_full_disk_is_told_from_other_errors_where_files_are_read_too(error, tmp_path):
    with (
        pytest.raises(SaveError, match="run could not be written to"),
        explaining_full_disks(tmp_path / "run"),
    ):
        raise error
    for other in (FileNotFoundError(2, "No such file"), SafetensorError("cut off"), ValueError("bad")):
        with pytest.raises(type(other)) as raised, explaining_full_disks(tmp_path / "run"):
            raise other
        assert raised.value is other
