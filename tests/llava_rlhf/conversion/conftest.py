"""Small models and adapters of the original, and what they are converted to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor

from llava_rlhf.conversion.adapter_layouts import POLICY_KIND, PPO_KIND, REWARD_KIND
from llava_rlhf.conversion.base_model import plan_base
from tests.llava_rlhf.conversion.original_adapters import (
    adapter_weights,
    write_policy,
    write_ppo_checkpoint,
    write_reward_model,
)
from tests.support.original_models import OriginalShape, write_original, write_tower
from tests.support.tiny_models import TinyShape, save_tiny_base


class Converted(NamedTuple):
    """An original model, its tower and the converted directory."""

    shape: OriginalShape
    source: Path
    tower: Path
    output: Path


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Converted:
    """hidden 48, 2 layers, 70 px, a projector of two layers, three `.bin` shards. Read-only: tests share it."""
    shape = OriginalShape()
    folder = tmp_path_factory.mktemp("converted")
    source = write_original(folder / "original", shape, shards=3)
    tower = write_tower(folder / "tower", shape)
    plan_base(source, tower).write(folder / "converted")
    return Converted(shape, source, tower, folder / "converted")


@pytest.fixture
def pair(tmp_path) -> Converted:
    """A fresh original and tower in one file each, for tests that change them; nothing is converted yet."""
    shape = OriginalShape()
    source = write_original(tmp_path / "original", shape, ending="safetensors")
    return Converted(shape, source, write_tower(tmp_path / "tower", shape), tmp_path / "converted")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory) -> Path:
    """A Hugging Face base of hidden 48 and 2 layers for adapters. Read-only: tests share it."""
    return save_tiny_base(tmp_path_factory.mktemp("small") / "base", TinyShape(hidden=48))


@pytest.fixture(scope="session")
def weights(small_base) -> dict[str, Tensor]:
    """An adapter for `small_base`, as the original names its tensors."""
    return adapter_weights(small_base)


@pytest.fixture
def checkpoints(tmp_path, small_base, weights) -> dict[str, Path]:
    """Kind → a fresh folder of that kind in the original's layout."""
    folder = tmp_path / "checkpoints"
    return {
        POLICY_KIND: write_policy(folder / "policy", weights),
        REWARD_KIND: write_reward_model(folder / "reward", weights),
        PPO_KIND: write_ppo_checkpoint(folder / "ppo", weights, adapter_weights(small_base, seed=1)),
    }
