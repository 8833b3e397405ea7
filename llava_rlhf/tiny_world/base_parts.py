"""What the bases of all tiny worlds are made with: how their layers start, and a folder that is replaced whole."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


def start_matching(layers: Iterable[nn.Module]) -> None:
    """Draw the weights of a language model's layers, queries equal to keys.

    So a token attends from the first step to tokens that look like it: matching a word with a word or with an image feature
    is what all tasks of these worlds are made of.
    """
    for layer in layers:
        for weight in (parameter for parameter in layer.parameters() if parameter.dim() == 2):
            nn.init.normal_(weight, std=0.8 / math.sqrt(weight.shape[1]))
        with torch.no_grad():
            layer.self_attn.q_proj.weight.copy_(layer.self_attn.k_proj.weight)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of `folder` once all went well."""
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    yield draft
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
