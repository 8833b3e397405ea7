"""Weights that DeepSpeed has divided among the processes (ZeRO-3): whether they are, and having them whole for a while.

Whoever reads or writes such a weight outside a forward pass makes it whole first, on every process: until then it is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


def is_divided(module: nn.Module) -> bool:
    """Whether the processes must all run a module together, as each has only a part of its weights."""
    return any(map(is_divided_weight, module.parameters()))


def is_divided_weight(parameter: nn.Parameter) -> bool:
    """Whether each process has only a part of a weight."""
    return hasattr(parameter, "ds_id")


@contextmanager
def whole(parameters: Iterable[nn.Parameter], written: bool = False) -> Iterator[None]:
    """Have divided weights whole; those of others are as ever. Every process must enter, with the same weights.

    Args:
        parameters: the weights.
        written: whether they are changed meanwhile; what the first process wrote counts for all.
    """
    divided = [parameter for parameter in parameters if is_divided_weight(parameter)]
    if not divided:
        yield
        return
    import deepspeed  # heavy, and optional for everything else

    with deepspeed.zero.GatheredParameters(divided, modifier_rank=0 if written else None), torch.no_grad():
        yield


def own_part(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """float[n]: of a whole value what this process holds; the last processes' parts are filled up with zeros."""
    size, group = parameter.ds_tensor.numel(), parameter.ds_process_group
    filled = pad(value.flatten(), (0, size * torch.distributed.get_world_size(group) - value.numel()))
    return filled.split(size)[torch.distributed.get_rank(group)]


def check_whole(parameters: Iterable[nn.Parameter]) -> None:
    """Raise RuntimeError where a weight is divided and nobody has made it whole: what is read would be empty."""
    for parameter in parameters:
        if is_divided_weight(parameter) and parameter.numel() != parameter.ds_numel:
            raise RuntimeError(
                "these weights are divided among the processes: all of them must enter `whole`"
            )
