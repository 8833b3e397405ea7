"""Only what a file system says becomes a message about saving."""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.alarm import NonFiniteError
from llava_rlhf.persistence.save_errors import SaveError, explaining_failures


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
