"""Optimizer steps of PPO: several passes over one batch of experience."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from tqdm import tqdm

from llava_rlhf.actor_critic import ActorCritic
from llava_rlhf.functional.losses import policy_loss, value_loss
from llava_rlhf.guards import Guard
from llava_rlhf.metrics import global_sums
from llava_rlhf.ppo_arguments import BatchPlan, PPOArguments
from llava_rlhf.prompt_stream import PromptStream
from llava_rlhf.rollout import Experience, RolloutCollector


@dataclass(frozen=True)
class Targets:
    """What the update aims at: whitened advantages and returns, float32[R, T], 0 at padding."""

    advantages: Tensor
    returns: Tensor


class PPOUpdater:
    """Runs the passes over a rollout batch.

    Args:
        accelerator: its gradient accumulation must be `plan.accumulation`.
        model: the prepared `ActorCritic`.
        optimizer: prepared.
        collector: builds the sequences of each base.
        arguments, plan, stream: numbers, batch sizes, and which rollouts belong together.
        guard: stops the run on a non-finite loss or gradient.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        collector: RolloutCollector,
        arguments: PPOArguments,
        plan: BatchPlan,
        stream: PromptStream,
        guard: Guard,
    ):
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.collector = collector
        self.arguments = arguments
        self.plan = plan
        self.stream = stream
        self.guard = guard
        actor_critic: ActorCritic = accelerator.unwrap_model(model)
        self.roles = actor_critic.roles()

    def update(
        self, experience: Experience, targets: Targets, step: int, learning_rate: float
    ) -> dict[str, float]:
        """`noptepochs` passes; returns the means of the step's loss statistics over tokens and of its norms."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        sums: defaultdict[str, Tensor | float] = defaultdict(float)
        norms: defaultdict[str, list[float]] = defaultdict(list)
        passes = [
            rows
            for epoch in range(self.arguments.noptepochs)
            for rows in self.stream.optimizer_batches(step, epoch, self.arguments.step_batch_size)
        ]
        quiet = None if self.accelerator.is_main_process else True  # None: only on a terminal
        for rows in tqdm(passes, desc="update", unit="optimizer step", leave=False, disable=quiet):
            for name, norm in self._optimizer_step(experience, targets, rows, sums, step).items():
                norms[name].append(norm)
        totals = global_sums(self.accelerator, sums)
        count = totals.pop("count")
        metrics = {f"ppo/{name}": total / count for name, total in totals.items()}
        return metrics | {f"ppo/loss/{name}": _finite_mean(numbers) for name, numbers in norms.items()}

    def _optimizer_step(
        self,
        experience: Experience,
        targets: Targets,
        rows: Sequence[int],
        sums: defaultdict[str, Tensor | float],
        step: int,
    ) -> Mapping[str, float]:
        # What counts in the whole optimizer step, over all processes and micro-batches: the one division.
        local_tokens = experience.counted[torch.tensor(rows, device=experience.counted.device)].sum()
        tokens = self.accelerator.reduce(local_tokens, reduction="sum")
        size = self.arguments.step_per_device_batch_size
        norms: dict[str, float] = {}
        for start in range(0, len(rows), size):
            with self.accelerator.accumulate(self.model):
                self._backward(experience, targets, rows[start : start + size], tokens, sums, step)
                if self.accelerator.sync_gradients:
                    norms = self._clip()
                    self.guard.check_norm(norms["grad_norm"], experience, rows, step)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.guard.weights_changed = True
        return norms

    def _backward(
        self,
        experience: Experience,
        targets: Targets,
        rows: Sequence[int],
        tokens: Tensor,
        sums: defaultdict[str, Tensor | float],
        step: int,
    ) -> None:
        responses, mask, counted = experience.rows(rows)
        width = counted.shape[1]
        items = [experience.items[row] for row in rows]
        index = torch.tensor(rows, device=mask.device)

        def old(tensor: Tensor) -> Tensor:
            return tensor[index, :width]

        log_probs, entropy, values = self.model(
            self.collector.policy_sequences(items, responses, mask, experience.policy_images.select(rows)),
            self.collector.value_sequences(items, responses, mask, experience.judge_images.select(rows)),
            counted,
        )
        policy = policy_loss(
            log_probs, old(experience.log_probs), old(targets.advantages), counted, self.arguments.cliprange
        )
        value = value_loss(
            values, old(experience.values), old(targets.returns), counted, self.arguments.cliprange_value
        )
        loss = (policy.sum + self.arguments.vf_coef * value.sum) / tokens
        self.guard.check_loss(loss, experience, rows, step)
        # DDP averages over processes and accelerate divides by the accumulation; `tokens` already counts both.
        self.accelerator.backward(loss * self.accelerator.num_processes * self.plan.accumulation)

        for name, total in {
            "count": policy.count,
            "loss/policy": policy.sum.detach(),
            "loss/value": value.sum.detach(),
            "policy/entropy": (entropy * counted).sum(),
            **policy.stats,
            **value.stats,
        }.items():
            sums[name] = sums[name] + total

    def _clip(self) -> dict[str, float]:
        """Clip the gradients as `--numerics` says; returns the norms before clipping."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # The engine owns the gradients, and clips them as `ppo_assembly` told it.
            return {"grad_norm": float(self.model.get_global_grad_norm() or 0.0)}
        self.accelerator.unscale_gradients(self.optimizer)
        norms = {
            role: nn.utils.get_total_norm([parameter.grad for parameter in parameters])
            for role, parameters in self.roles.items()
        }
        joint = torch.stack(tuple(norms.values())).norm()
        for role, parameters in self.roles.items():
            norm = joint if self.arguments.numerics.clips_jointly else norms[role]
            nn.utils.clip_grads_with_norm_(parameters, self.arguments.max_grad_norm, norm)
        return {
            "grad_norm": float(joint),
            **{f"grad_norm_{role}": float(norm) for role, norm in norms.items()},
        }


def _finite_mean(numbers: Sequence[float]) -> float:
    # fp16 scaling skips steps whose gradient overflowed; their infinite norm is no measurement (and no JSON).
    finite = [number for number in numbers if math.isfinite(number)]
    return sum(finite) / max(len(finite), 1)
