"""An adapter on disk under the name that servers know it by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_rlhf import initialize_policy_model
from llava_rlhf.assembly.roles import new_policy
from llava_rlhf.engines.stored_adapter import stored_version
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.role_files import POLICY
from models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from models.vlm import BaseSettings


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    """Of a policy that was never trained."""
    policy = new_policy(tiny_base, BaseSettings(), AdapterArguments(lora_r=2), False)
    initialize_policy_model.save_policy(policy, str(tiny_base), tmp_path / "policy")
    return tmp_path / "policy" / POLICY


def trained(folder: Path) -> None:
    weights = load_file(folder / ADAPTER_WEIGHTS)
    save_file(
        {name: value + 1 if "lora_B" in name else value for name, value in weights.items()},
        folder / ADAPTER_WEIGHTS,
    )


def test_its_name_is_that_of_its_weights_its_settings_and_its_place(folder, monkeypatch):
    first = stored_version(folder)
    monkeypatch.chdir(folder.parent)
    assert stored_version(Path(POLICY)) == first and first.folder.is_absolute()
    copied = shutil.copytree(folder, folder.with_name("copied"))
    names = {first.name, stored_version(copied).name}
    config = folder / ADAPTER_CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 99}))
    names.add(stored_version(folder).name)
    trained(folder)
    names.add(stored_version(folder).name)
    assert len(names) == 4


def test_an_adapter_that_changes_nothing_is_known(folder):
    assert stored_version(folder).empty
    trained(folder)
    assert not stored_version(folder).empty
