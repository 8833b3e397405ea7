"""Policies of random weights, and exporting them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from llava_rlhf import export_policy
from models.adapters import AdapterBank, AdapterSpec, LoraSettings
from models.vlm import BaseSettings, load_base
from tests.support.tiny_data import command_line


class Exported(NamedTuple):
    """A policy on `base`, trained in `mode`, and its two exports."""

    mode: str
    base: Path
    run: Path
    merged: Path
    adapter: Path


def export(base: Path, adapter: Path, output: Path, **flags) -> Path:
    """Run the program; returns the new folder."""
    argv = command_line(base_model_name=base, adapter=adapter, output_dir=output, **flags)
    export_policy.run(export_policy.prepare(argv))
    return output


def write_run(base: Path, folder: Path, **data: str) -> Path:
    """A run folder with a random adapter; `data` are its `DataArguments`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bank = AdapterBank(
            load_base(base, BaseSettings()), {"policy": AdapterSpec(LoraSettings(r=4), trainable=True)}
        )
        with torch.no_grad():
            for parameter in bank.parameters_of("policy").values():
                parameter.normal_(std=0.05)
    bank.save("policy", folder / "lora_policy", str(base))
    (folder / "arguments.json").write_text(json.dumps({"DataArguments": data}))
    return folder
