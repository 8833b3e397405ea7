"""Weights of a base get their published names in place, and keep their values and the base its fingerprint."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from llava_rlhf.conversion.rename_weights import prepare, run
from llava_rlhf.engines.serving import check_served
from models.base_fingerprint import base_fingerprint
from tests.support.tiny_data import command_line
from tests.support.tiny_families.qwen import save_tiny_qwen25


def test_a_base_of_today_is_served_afterwards(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    with pytest.raises(ValueError, match="the name that transformers writes"):
        check_served(base)
    run(prepare(command_line(folder=base)))
    check_served(base)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_base, base))
    assert base_fingerprint(base) == base_fingerprint(tiny_base)
    old = {
        name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in after.items()
    }
    assert before.keys() - old.keys() == set() and old.keys() - before.keys() == set()
    assert all(torch.equal(old[name], value) for name, value in before.items())


def test_names_of_a_family_that_has_one_set_of_them_stay(tmp_path):
    base = save_tiny_qwen25(tmp_path / "base")
    before = set(load_file(base / "model.safetensors"))
    run(prepare(command_line(folder=base)))
    assert set(load_file(base / "model.safetensors")) == before
