"""A plan for any of the three programs, and its printing at the start of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from data_utils.datasets import ExampleDataset
from llava_rlhf.memory_planning.names import PPO
from llava_rlhf.memory_planning.plan import GIB, MemoryPlan, format_plan, unit_of
from llava_rlhf.memory_planning.ppo import plan_ppo
from llava_rlhf.memory_planning.request import Request
from llava_rlhf.memory_planning.settings import Lengths, flags_of
from llava_rlhf.memory_planning.trainers import plan_trainer

logger = logging.getLogger(__name__)


def plan_for(request: Request) -> MemoryPlan:
    """The memory of a program with these settings. Raises ValueError when the sizes of a base are not known."""
    return plan_ppo(request) if request.program == PPO else plan_trainer(request)


def announce_plan(
    program: str,
    settings: Iterable[Any],
    dataset: ExampleDataset,
    processes: int,
    reward_base: str | None = None,
    in_full: bool = False,
) -> None:
    """Print the plan of a run that is about to load its models. Never stops the run.

    Arguments as in `request_of`; `in_full` prints every part and phase in place of two lines.
    """
    try:
        request = request_of(program, settings, dataset, processes, reward_base)
        on_gpu = request.on_gpu and torch.cuda.is_available()
        gpu_bytes = torch.cuda.get_device_properties(0).total_memory if on_gpu else None
        plan = plan_for(request)
        print(describe(plan, gpu_bytes) if in_full else format_briefly(plan, gpu_bytes), flush=True)
    except (
        Exception
    ) as error:  # it runs the layers of libraries in a way of its own: what fails here may well train
        first_line = (str(error).splitlines() or [""])[0]
        logger.warning("memory is not planned for this run (%s: %s)", type(error).__name__, first_line)
        logger.debug("what the plan failed on", exc_info=True)


def request_of(
    program: str,
    settings: Iterable[Any],
    dataset: ExampleDataset,
    processes: int,
    reward_base: str | None = None,
) -> Request:
    """What to plan for a prepared run.

    Args:
        program: one of `names.PROGRAMS`.
        settings: everything that was parsed.
        dataset: the rows, for their lengths.
        processes: of the whole run.
        reward_base: of PPO, where the flags leave it open.
    """
    flags = flags_of(settings)
    if reward_base is not None:
        flags["reward_base_model_name"] = reward_base
    return Request(program, flags, Lengths.of_data(dataset), processes)


def describe(plan: MemoryPlan, gpu_bytes: float | None) -> str:
    """A plan as text; with a size of the GPUs also whether it fits, and else who finds what would."""
    lines = [format_plan(plan)]
    if gpu_bytes is not None:
        lines.append(f"  {_verdict(plan, gpu_bytes)}")
    return "\n".join(lines)


def format_briefly(plan: MemoryPlan, gpu_bytes: float | None) -> str:
    """A plan in two lines: how much, and which phase decides it."""
    unit, name = unit_of(plan)
    sizes = f"tensors {plan.peak / unit:.2f} {name} at the most, {plan.held_bytes / unit:.2f} of them all the time"
    if plan.context:
        sizes += f"; a GPU in all {plan.total / unit:.2f}"
    verdict = "" if gpu_bytes is None else f"; {_verdict(plan, gpu_bytes)}"
    return (
        f"Memory of {plan.title}, estimated, a process: {sizes}\n"
        f"  the most in: {plan.widest.name}{verdict} (--verbose True shows every part)"
    )


def _verdict(plan: MemoryPlan, gpu_bytes: float) -> str:
    gib = f"{gpu_bytes / GIB:.0f}"
    if plan.total <= gpu_bytes:
        return f"fits in {gib} GiB"
    return (
        f"does NOT fit in {gib} GiB; python -m llava_rlhf.plan_memory SCRIPT --gpu_gib {gib} finds what does"
    )
