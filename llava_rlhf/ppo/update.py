"""Optimizer steps of PPO: several passes over one batch of experience."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from tqdm import tqdm

from llava_rlhf.functional.losses import LossSum, policy_loss, value_loss
from llava_rlhf.ppo.actor_critic import ActorCritic, Sequences
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.ppo.gradients import Gradients
from llava_rlhf.ppo.guards import Guard
from llava_rlhf.ppo.micro_batches import MicroBatches, micro_batches, split_into
from llava_rlhf.ppo.prompt_stream import PromptStream
from llava_rlhf.ppo.rollout import Experience, RolloutCollector
from llava_rlhf.runs.reductions import global_sums


@dataclass(frozen=True)
class Targets:
    """What the update aims at: whitened advantages and returns, float32[R, T], 0 at padding."""

    advantages: Tensor
    returns: Tensor


class PPOUpdater:
    """Runs the passes over a rollout batch.

    Args:
        accelerator: processes and devices.
        model: the prepared `ActorCritic`.
        optimizer: prepared.
        collector: builds the sequences of each base.
        arguments, stream: numbers, and which rollouts belong together.
        guard: stops the run on a non-finite loss or gradient.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        collector: RolloutCollector,
        arguments: PPOArguments,
        stream: PromptStream,
        guard: Guard,
    ):
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.collector = collector
        self.arguments = arguments
        self.stream = stream
        self.guard = guard
        # Only DeepSpeed wraps it; accelerate's `unwrap_model` would import DeepSpeed to see that.
        self.actor_critic: ActorCritic = accelerator.unwrap_model(model) if self._deepspeed else model
        self.roles = self.actor_critic.roles()
        self.gradients = Gradients(accelerator, self.roles)
        self.batches = MicroBatches(arguments.step_per_device_batch_size, arguments.tokens_per_micro_batch)

    def update(
        self,
        experience: Experience,
        targets: Targets,
        step: int,
        learning_rate: float,
        on_progress: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """`noptepochs` passes; returns the means of the step's loss statistics over tokens and of its norms.

        `on_progress` is called before every optimizer step.
        """
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
            on_progress()
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
        losses: list[Tensor] = []

        def check(found: Sequence[Tensor]) -> None:
            self.guard.check_losses(found, experience, rows, step)

        def train_on(chosen: Sequence[int], last: bool = False) -> None:
            batch = self._micro_batch(experience, targets, [rows[index] for index in chosen])
            policy, value = self._backward(batch, tokens, last, check)
            losses.append(policy.sum.detach() + value.sum.detach())
            for name, total in {
                "count": policy.count,
                "loss/policy": policy.sum.detach(),
                "loss/value": value.sum.detach(),
                **policy.stats,
                **value.stats,
            }.items():
                sums[name] = sums[name] + total

        lengths = [experience.sequence_lengths[row] for row in rows]
        if self._deepspeed:
            for group, last in self._equal_groups(lengths):
                train_on(group, last)
            # The engine has stepped, unless the gradient was not finite.
            self.guard.weights_changed |= self.model.was_step_applied()
        else:
            self.batches.run(lengths, train_on)
            self.gradients.sum_over_processes()
            check(losses)
        norms = self._clip()
        self.guard.check_norm(norms["grad_norm"], experience, rows, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.guard.weights_changed = True
        return norms

    def _equal_groups(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], bool]]:
        """As many groups on every process, and which is the last: the engine exchanges gradients in each backward."""
        groups = micro_batches(lengths, self.batches.max_rows, self.batches.max_tokens)
        counts = self.accelerator.gather(torch.tensor([len(groups)], device=self.accelerator.device))
        groups = split_into(groups, int(counts.max()))
        for index, group in enumerate(groups):
            yield group, index == len(groups) - 1

    def _micro_batch(self, experience: Experience, targets: Targets, rows: Sequence[int]) -> _MicroBatch:
        responses = experience.rows(rows)
        items = [experience.items[row] for row in rows]
        index = torch.tensor(rows, device=responses.ids.device)
        width = responses.ids.shape[1]
        return _MicroBatch(
            self.collector.policy_sequences(items, responses, experience.policy_images.select(rows)),
            self.collector.value_sequences(items, responses, experience.reward_images.select(rows)),
            responses.counted,
            experience.log_probs[index, :width],
            experience.values[index, :width],
            targets.advantages[index, :width],
            targets.returns[index, :width],
        )

    def _backward(
        self, batch: _MicroBatch, tokens: Tensor, last: bool, check: Callable[[Sequence[Tensor]], None]
    ) -> tuple[LossSum, LossSum]:
        """Add the gradients of one micro-batch.

        Only DeepSpeed, which steps inside its last backward, reads `last` and has the loss checked here.
        """
        if self._deepspeed:
            # One forward and one backward of one module, which is what an engine can follow.
            outputs = self.model(batch.policy_sequences, batch.value_sequences, batch.counted)
            policy, value = self._policy_loss(batch, *outputs[:2]), self._value_loss(batch, outputs[2])
            loss = (policy.sum + self.arguments.vf_coef * value.sum) / tokens
            check([loss.detach()])
            self.accelerator.sync_gradients = last
            self.accelerator.backward(
                loss * self.accelerator.num_processes
            )  # the engine averages over processes
            return policy, value
        # One role after the other: the activations of one are gone before those of the other are made.
        actor_critic = self.actor_critic
        policy = self._policy_loss(batch, *actor_critic.policy_outputs(batch.policy_sequences, batch.counted))
        gradients = {"policy": self.gradients.of("policy", policy.sum / tokens)}
        policy = policy.detached()
        value = self._value_loss(batch, actor_critic.value_outputs(batch.value_sequences))
        gradients["value"] = self.gradients.of("value", self.arguments.vf_coef * value.sum / tokens)
        self.gradients.add(gradients)
        return policy, value

    def _policy_loss(self, batch: _MicroBatch, log_probs: Tensor, entropy: Tensor | None) -> LossSum:
        loss = policy_loss(
            log_probs, batch.old_log_probs, batch.advantages, batch.counted, self.arguments.cliprange
        )
        if entropy is not None:
            loss.stats["policy/entropy"] = (entropy * batch.counted).sum()
        return loss

    def _value_loss(self, batch: _MicroBatch, values: Tensor) -> LossSum:
        return value_loss(
            values, batch.old_values, batch.returns, batch.counted, self.arguments.cliprange_value
        )

    def _clip(self) -> dict[str, float]:
        """Clip the gradients as `--numerics` says; returns the norms before clipping."""
        if self._deepspeed:
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

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


@dataclass(frozen=True)
class _MicroBatch:
    """What one backward pass needs: sequences for both bases, and float32[B, T] of rollout and targets."""

    policy_sequences: Sequences
    value_sequences: Sequences
    counted: Tensor
    old_log_probs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor


def _finite_mean(numbers: Sequence[float]) -> float:
    # fp16 scaling skips steps whose gradient overflowed; their infinite norm is no measurement (and no JSON).
    finite = [number for number in numbers if math.isfinite(number)]
    return sum(finite) / max(len(finite), 1)
