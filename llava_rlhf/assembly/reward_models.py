"""Folders of reward models → reward models, and the checks of their files before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.reward_card import RewardModelCard, read_reward_card
from llava_rlhf.runs.role_files import REWARD, REWARD_HEAD
from models.adapter_files import check_adapter_fits
from models.adapters import AdapterBank, AdapterSpec
from models.heads import LINEAR, check_head_fits, new_head, read_head
from models.roles import RewardModel
from models.vlm import BaseSettings, VisionLanguageModel, load_base


def check_reward_files(folder: str | Path, card: RewardModelCard, base: str | Path, flag: str) -> None:
    """Look whether adapter, head, card and base belong together, by headers and fingerprints only.

    Args:
        folder, card: of the reward model.
        base: what it will stand on.
        flag: that names the base.

    Raises:
        ValueError: they do not.
    """
    check_adapter_fits(Path(folder) / REWARD, base)
    check_head_fits(Path(folder) / REWARD_HEAD, base, card.reward_head)
    card.check_base(folder, base, flag)


def check_members(
    folder: str | Path, card: RewardModelCard, members: Sequence[str | Path], base: str | Path, flag: str
) -> None:
    """Look whether more reward models can score together with one, by their files alone.

    Args:
        folder, card: of the one.
        members: folders of the others.
        base: what all will stand on.
        flag: that names the base.

    Raises:
        ValueError: one of them is no reward model, was trained otherwise, or does not fit the base.
    """
    for member in members:
        other = read_reward_card(member)
        card.check_member(folder, member, other)
        check_reward_files(member, other, base, flag)


def new_reward_model(
    base: str | Path,
    settings: BaseSettings,
    arguments: AdapterArguments,
    gradient_checkpointing: bool,
    head: str = LINEAR,
) -> RewardModel:
    """A base with one new trainable reward adapter and a new head of this kind."""
    adapters = {REWARD: AdapterSpec(arguments.lora_settings(), trainable=True)}
    bank = AdapterBank(load_frozen(base, settings), adapters, gradient_checkpointing)
    return RewardModel(bank, REWARD, new_head(head, bank.vlm.hidden_size).to(bank.vlm.device))


def trained_reward_model(base: str | Path, settings: BaseSettings, folder: Path) -> RewardModel:
    """A reward model as it was saved, for inference. Raises ValueError when adapter or head do not fit the base."""
    return trained_reward_models(base, settings, [folder])[0]


def trained_reward_models(
    base: str | Path, settings: BaseSettings, folders: Sequence[Path]
) -> list[RewardModel]:
    """Several on one base, in their order. Raises ValueError as `trained_reward_model` does."""
    bank = AdapterBank(load_frozen(base, settings), reward_adapters(folders))
    return [on_bank(bank, name, folder) for name, folder in zip(bank.names, folders, strict=True)]


def reward_adapters(folders: Sequence[Path]) -> dict[str, AdapterSpec]:
    """The adapters of these reward models, for a bank: the first one's as ever, those of the others numbered from 1."""
    names = [REWARD, *(f"{REWARD}_{number}" for number in range(1, len(folders)))]
    return {
        name: AdapterSpec(folder / REWARD, trainable=False)
        for name, folder in zip(names, folders, strict=True)
    }


def on_bank(bank: AdapterBank, adapter: str, folder: Path) -> RewardModel:
    """The reward model of a folder whose adapter a bank holds, for inference. Raises ValueError when its head does not fit."""
    head = read_head(folder / REWARD_HEAD, bank.vlm.hidden_size).to(bank.vlm.device)
    return RewardModel(bank, adapter, head.requires_grad_(False))


def load_frozen(base: str | Path, settings: BaseSettings) -> VisionLanguageModel:
    """The base as it is loaded for training; draws no random numbers that anything else would miss."""
    # Loading draws random numbers under ZeRO-3 only: what is drawn afterwards, adapters and heads, must not depend on it.
    with torch.random.fork_rng(devices=[]):
        return load_base(base, settings)
