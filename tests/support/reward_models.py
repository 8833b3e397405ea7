"""Reward models made of one that is trained: another head, other weights; and what one says without our code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from data_utils.datasets import PreferenceDataset
from models.heads import MLP, new_head
from tests.support.plain_models import plain_reward

HEAD, CARD, ADAPTER = "reward_head.safetensors", "reward_model.json", "lora_reward/adapter_model.safetensors"


def with_mlp_head(folder: Path, target: Path, says: str = MLP) -> Path:
    """A copy whose head has two layers that are not trained; its card says that, or whatever else."""
    shutil.copytree(folder, target)
    width = load_file(target / HEAD)["weight"].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        head = new_head(MLP, width)
    head.save(target / HEAD)
    edit_card(target, reward_head=says)
    return target


def moved(folder: Path, target: Path, seed: int, spread: float = 0.02) -> Path:
    """A copy whose adapter and head have moved randomly, as another seed of its training would have moved them."""
    shutil.copytree(folder, target)
    generator = torch.Generator().manual_seed(seed)
    for name in (HEAD, ADAPTER):
        state = {
            key: value + spread * torch.randn(value.shape, generator=generator)
            for key, value in load_file(target / name).items()
        }
        save_file(state, target / name, {"format": "pt"})
    return target


def edit_card(folder: Path, **changes: object) -> None:
    """Other entries in `reward_model.json`."""
    path = folder / CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def plain_scores(base: Path, folder: Path, dataset: PreferenceDataset) -> list[tuple[float, float, int]]:
    """For each pair the scores of outputs 1 and 2, and which of them is preferred (1 or 2)."""
    reward_model = plain_reward(base, folder)
    rows = []
    with torch.no_grad():
        for item in (dataset[index] for index in range(len(dataset))):
            rows.append(
                (*(float(reward_model.score(ids, item.images)) for ids in item.input_ids), item.preference)
            )
    return rows
