"""Banks of random adapters over the tiny base, and one fixed batch to run them on."""

from __future__ import annotations

import torch

from models.adapters import AdapterBank, AdapterSpec
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base
from tests.models.tiny_rows import MIXED, PIXELS, pad

LORA = LoraSettings(r=4, alpha=8.0)
SPECS = {
    "policy": AdapterSpec(LORA, True),
    "value": AdapterSpec(LORA, True),
    "reference": AdapterSpec(LORA, False),
}
BATCH = pad(MIXED)


def randomise(bank: AdapterBank, *names: str) -> None:
    """Draw all weights of these adapters, each differently: a new adapter's B is zero, so all would answer alike."""
    with torch.no_grad():
        for seed, name in enumerate(names):
            generator = torch.Generator().manual_seed(seed)
            for parameter in bank.parameters_of(name).values():
                drawn = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
                parameter.copy_(drawn)


def build_bank(base, specs=SPECS, bits=16, checkpointing=False) -> AdapterBank:
    """A bank whose adapters all answer differently."""
    bank = AdapterBank(load_base(base, BaseSettings(bits=bits)), specs, checkpointing)
    randomise(bank, *bank.names)
    return bank


def run(bank: AdapterBank, name: str, training: bool = False) -> torch.Tensor:
    """Hidden states float[B, L, D] of `BATCH` under one adapter, without gradient."""
    with torch.no_grad(), bank.use(name, training) as vlm:
        return vlm(BATCH.input_ids, BATCH.mask, vlm.encode_images(PIXELS, BATCH.image_index))
