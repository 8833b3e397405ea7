"""Optimizer and learning-rate schedule of PPO, by the names that `transformers.Trainer` uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import get_scheduler

BITSANDBYTES_OPTIMIZERS = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
}
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", *BITSANDBYTES_OPTIMIZERS)


def check_optimizer(name: str) -> None:
    """Raise ValueError for an optimizer that `make_optimizer` does not know."""
    if name not in OPTIMIZERS:
        raise ValueError(f"--optim {name}: choose from {', '.join(OPTIMIZERS)}")


def make_optimizer(
    name: str, groups: Sequence[Sequence[nn.Parameter]], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """One AdamW (betas 0.9 and 0.999, eps 1e-8) over all trained weights, a parameter group for each of `groups`.

    Raises ValueError for an unknown name.
    """
    parameters = [{"params": list(group)} for group in groups]
    options = {"lr": learning_rate, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-8}
    check_optimizer(name)
    if name in BITSANDBYTES_OPTIMIZERS:
        import bitsandbytes  # heavy, and only these optimizers need it

        return getattr(bitsandbytes.optim, BITSANDBYTES_OPTIMIZERS[name])(parameters, **options)
    return torch.optim.AdamW(parameters, fused=name == "adamw_torch_fused", **options)


def clip_each_group(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Let every step clip the gradient of each parameter group by its own norm.

    For DeepSpeed, whose engine knows one norm only: it hands the optimizer one group after the other, of which every process
    holds a part. ZeRO-3 empties the others meanwhile.
    """

    def clip(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        for group in filter(lambda group: group["params"], optimizer.param_groups):
            squares = sum(part.grad.float().square().sum() for part in group["params"])
            torch.distributed.all_reduce(squares)
            nn.utils.clip_grads_with_norm_(group["params"], max_norm, squares.sqrt())

    optimizer.register_step_pre_hook(clip)


def learning_rate_schedule(
    name: str, learning_rate: float, warmup_steps: int, total_steps: int
) -> Callable[[int], float]:
    """The learning rate of PPO step `step` (from 0) as a pure function, so that resuming needs no state.

    The warm-up is counted from 1, so that its first step already moves; what follows it starts at the peak, as published.
    Raises ValueError for a name that transformers does not know or that looks at the loss.
    """
    unused = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = get_scheduler(name, unused, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(
            f"--lr_scheduler_type {name}: choose a schedule of the step alone, such as cosine or linear"
        )
    factor = scheduler.lr_lambdas[0]
    return lambda step: learning_rate * factor(step + 1 if step < warmup_steps else step)
