"""Batch arithmetic of PPO: what divides what, what fits the prompts there are, and how many steps that makes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llava_rlhf.ppo.arguments import PPOArguments


@dataclass(frozen=True)
class BatchPlan:
    """Batch sizes of one process, derived from the global ones.

    Attributes:
        rollouts: rows this process samples per PPO step.
        rollout_micro_batches: sampling passes per PPO step.
        optimizer_steps: per pass over the rollouts.
        ppo_steps: PPO steps of the whole run.
    """

    world_size: int
    rollouts: int
    rollout_micro_batches: int
    optimizer_steps: int
    ppo_steps: int


def plan_batches(
    ppo: PPOArguments, world_size: int, n_prompts: int, samples_per_prompt: int = 1
) -> BatchPlan:
    """Check that the batch sizes divide, and derive those of one process; `samples_per_prompt` rollouts share a prompt.

    Raises:
        ValueError: with all numbers, and what has to divide what.
    """
    problems = []

    def divides(divisor: int, number: int, text: str) -> None:
        if number % divisor:
            problems.append(f"{text}: {number} is not a multiple of {divisor}")

    divides(
        world_size * ppo.rollout_per_device_batch_size,
        ppo.rollout_batch_size,
        "rollout_batch_size must be a multiple of processes × rollout_per_device_batch_size",
    )
    divides(world_size, ppo.step_batch_size, "step_batch_size must be a multiple of processes")
    divides(
        ppo.step_batch_size,
        ppo.rollout_batch_size,
        "rollout_batch_size must be a multiple of step_batch_size",
    )
    prompts = ppo.rollout_batch_size // samples_per_prompt
    if n_prompts < prompts:
        needs = (
            "as many" if samples_per_prompt == 1 else f"{prompts} (samples_per_prompt {samples_per_prompt})"
        )
        problems.append(
            f"rollout_batch_size {ppo.rollout_batch_size} needs {needs} prompts; the data has {n_prompts}"
        )
    if problems:
        numbers = ", ".join(
            f"{name} {getattr(ppo, name)}"
            for name in ("rollout_batch_size", "rollout_per_device_batch_size", "step_batch_size")
        )
        raise ValueError(
            f"batch sizes do not fit ({numbers}, processes {world_size}): " + "; ".join(problems)
        )
    steps = math.floor(n_prompts / prompts) * ppo.total_epochs
    return BatchPlan(
        world_size=world_size,
        rollouts=ppo.rollout_batch_size // world_size,
        rollout_micro_batches=ppo.rollout_batch_size // (world_size * ppo.rollout_per_device_batch_size),
        optimizer_steps=ppo.rollout_batch_size // ppo.step_batch_size,
        ppo_steps=ppo.max_steps if ppo.max_steps > 0 else steps,
    )


def fit_batches(
    ppo: PPOArguments, world_size: int, n_prompts: int, samples_per_prompt: int = 1
) -> dict[str, int]:
    """Lower batch sizes where the data has less prompts than a rollout batch: the largest that keep the optimizer steps of a rollout batch.

    A function of settings, processes and prompts alone: a run that is continued does the same. Groups stay whole.

    Returns:
        The new sizes by their flags; empty where the data is enough.

    Raises:
        ValueError: the sizes do not divide one another, or there are fewer rollouts than processes.
    """
    samples = n_prompts * samples_per_prompt
    if samples >= ppo.rollout_batch_size:
        return {}
    plan = plan_batches(ppo, world_size, ppo.rollout_batch_size)
    # What a process takes is a multiple of this, so that all together take whole groups.
    whole = samples_per_prompt // math.gcd(samples_per_prompt, world_size)
    if samples // world_size < whole:
        raise ValueError(
            f"{n_prompts} prompts are fewer than {world_size} processes: NUM_PROCESSES={n_prompts} of the scripts works, "
            "or more prompts"
        )
    share = samples // world_size
    optimizer_steps = min(plan.optimizer_steps, share // whole)
    unit = math.lcm(optimizer_steps, whole)
    for rollouts in range(share // unit * unit, 0, -unit):
        most = min(ppo.rollout_per_device_batch_size, rollouts)
        at_once = max(size for size in range(1, most + 1) if rollouts % size == 0)
        if 2 * at_once >= most:  # a prime number of prompts would be sampled one by one
            break
    return {
        "rollout_batch_size": rollouts * world_size,
        "step_batch_size": rollouts * world_size // optimizer_steps,
        "rollout_per_device_batch_size": at_once,
    }
