"""The original's reward models, converted as they are: the rewards of 24 fixed sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from llava_rlhf.runs.reward_card import read_reward_card
from llava_rlhf.runs.role_files import REWARD, REWARD_HEAD
from models.adapter_files import check_adapter_fits
from models.adapters import AdapterBank, AdapterSpec
from models.heads import ScalarHead
from models.roles import RewardModel
from models.vlm import BaseSettings, load_base
from tests.parity.recordings import pair_batch


@torch.no_grad()
def scores(folder: Path, batch: dict[str, Tensor]) -> Tensor:
    """float32[pairs, 2] of a converted reward model, on the base that its card names."""
    base = read_reward_card(folder).base_model
    check_adapter_fits(folder / REWARD, base)
    bank = AdapterBank(load_base(base, BaseSettings()), {REWARD: AdapterSpec(folder / REWARD, False)})
    head = ScalarHead(bank.vlm.hidden_size)
    head.load(folder / REWARD_HEAD)
    features = bank.vlm.encode_images(batch["pixel_values"], batch["image_index"])
    model = RewardModel(bank, REWARD, head)
    return model(batch["input_ids"], batch["attention_mask"].bool(), features).view(-1, 2)


@pytest.fixture(scope="module")
def fixed(recordings) -> dict[str, np.ndarray]:
    """12 pairs, left-padded to 391 tokens, one image a pair (recorded as rounded to bfloat16)."""
    return dict(np.load(recordings / "rm" / "fixed_batch_rewards.npz"))


@pytest.mark.parametrize("step", [0, 8])
def test_rewards_of_the_fixed_sequences(step, fixed, request):
    folder = request.getfixturevalue(f"converted_rm{step}")
    expected = torch.tensor(fixed[f"checkpoint_{step}_rewards"])
    assert_close(scores(folder, pair_batch(fixed)), expected, rtol=0, atol=1e-5)


def test_the_recorded_rewards_tell_checkpoints_and_sequences_apart(fixed):
    """Else the test above would pass with the wrong adapter or the wrong rows."""
    first, last = (torch.tensor(fixed[f"checkpoint_{step}_rewards"]) for step in (0, 8))
    assert (first - last).abs().min() > 1e-3
    assert min(values.flatten().sort().values.diff().abs().max() for values in (first, last)) > 1e-3
