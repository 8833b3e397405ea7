"""A pickle in a checkpoint is looked at before DeepSpeed, which trusts it, loads it."""

from __future__ import annotations

import os
from fractions import Fraction

import pytest
import torch

from llava_rlhf.runs.tensor_files import check_engine_files


class Runs:
    """Unpickling it calls `os.mkdir`."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_tensors_and_plain_values_pass(tmp_path):
    torch.save({"step": 3, "moments": torch.ones(2)}, tmp_path / "mp_rank_00_model_states.pt")
    check_engine_files(tmp_path)


@pytest.mark.parametrize("name", ["states.pt", "deep/states.pth", "pytorch_model.bin"])
def test_what_would_run_code_is_refused_and_does_not_run(tmp_path, name):
    path = tmp_path / "checkpoint" / name
    path.parent.mkdir(parents=True)
    torch.save({"optimizer": Runs(tmp_path / "made")}, path)
    with pytest.raises(ValueError, match=r"would run .*mkdir"):
        check_engine_files(tmp_path / "checkpoint")
    assert not (tmp_path / "made").exists()
    torch.load(path, weights_only=False)  # it would have
    assert (tmp_path / "made").exists()


def test_a_harmless_class_that_deepspeed_does_not_write_is_refused_too(tmp_path):
    torch.save({"ratio": Fraction(1, 2)}, tmp_path / "states.pt")
    with pytest.raises(ValueError, match=r"fractions\.Fraction"):
        check_engine_files(tmp_path)


def test_half_a_file_is_refused(tmp_path):
    torch.save({"moments": torch.ones(100)}, tmp_path / "states.pt")
    (tmp_path / "states.pt").write_bytes((tmp_path / "states.pt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"states\.pt is not a file that torch\.save wrote whole"):
        check_engine_files(tmp_path)
