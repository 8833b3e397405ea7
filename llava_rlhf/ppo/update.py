"""Optimizer steps of PPO: several passes over one batch of experience."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from tqdm import tqdm

from llava_rlhf.functional.losses import LossSum, value_loss
from llava_rlhf.ppo.actor_critic import ActorCritic
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.gradients import Gradients
from llava_rlhf.ppo.guards import Guard
from llava_rlhf.ppo.micro_batches import MicroBatches, micro_batches, split_into
from llava_rlhf.ppo.policy_objective import MicroBatch, PolicyObjective, StepTotals
from llava_rlhf.ppo.prompt_stream import PromptStream
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.targets import Targets
from llava_rlhf.runs.reductions import global_max, global_sums


class PPOUpdater:
    """Runs the passes over a rollout batch.

    Args:
        accelerator: processes and devices.
        model: the prepared `ActorCritic`.
        optimizer: prepared.
        collector: builds the sequences of each base.
        objective: the policy's loss.
        arguments, estimator, stream: numbers, and which rollouts belong together.
        guard: stops the run on a non-finite loss or gradient.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        collector: RolloutCollector,
        objective: PolicyObjective,
        arguments: PPOArguments,
        estimator: EstimatorArguments,
        stream: PromptStream,
        guard: Guard,
    ):
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.collector = collector
        self.objective = objective
        self.arguments = arguments
        self.estimator = estimator
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
        kl_coef: float,
        on_progress: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """`noptepochs` passes, if no limit ends them; returns the means of loss statistics over tokens, and of norms.

        Args:
            experience, targets: of the PPO step.
            step: counted from 0.
            learning_rate, kl_coef: of this step.
            on_progress: called before every optimizer step.
        """
        rates = self._learning_rates(step, learning_rate)
        for role, group in zip(self.roles, self.optimizer.param_groups, strict=True):
            group["lr"] = rates[role]
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
            found = self._optimizer_step(experience, targets, rows, step, kl_coef)
            for name, total in found.sums.items():
                sums[name] = sums[name] + total
            for name, norm in found.norms.items():
                norms[name].append(norm)
            if self._past_limit(found.sums):
                break
        totals = global_sums(self.accelerator, sums)
        count = max(totals.pop("count"), 1)
        metrics = {f"ppo/{name}": total / count for name, total in totals.items()}
        if self.objective.kl_limit is not None:
            metrics["ppo/optimizer_steps"] = len(norms["grad_norm"])
        return metrics | {f"ppo/loss/{name}": _finite_mean(norms[name]) for name in self._norm_names}

    def _past_limit(self, sums: Mapping[str, Tensor | float]) -> bool:
        """Whether an optimizer step with these sums was the last of its PPO step; alike on all processes."""
        limit = self.objective.kl_limit
        if limit is None:
            return False
        totals = global_sums(self.accelerator, {name: sums[name] for name in ("policy/approxkl", "count")})
        return totals["policy/approxkl"] > limit * totals["count"]

    def _learning_rates(self, step: int, learning_rate: float) -> dict[str, float]:
        """Of each role, where that of a PPO step is `learning_rate`."""
        peak = self.arguments.learning_rate
        value = peak if self.estimator.value_learning_rate is None else self.estimator.value_learning_rate
        policy = 0.0 if self.critic_alone(step) else learning_rate
        return {"policy": policy, "value": learning_rate if value == peak else learning_rate * value / peak}

    def critic_alone(self, step: int) -> bool:
        """Whether a PPO step, counted from 0, leaves the policy as it is."""
        return step < self.estimator.value_warmup_steps

    def _optimizer_step(
        self,
        experience: Experience,
        targets: Targets,
        rows: Sequence[int],
        step: int,
        kl_coef: float,
    ) -> _Found:
        # What counts in the whole optimizer step, over all processes and micro-batches: the one division.
        lengths = targets.learned[torch.tensor(rows, device=targets.learned.device)].sum(dim=1)
        counts = self.accelerator.reduce(torch.stack([lengths.sum(), (lengths > 0).sum()]), reduction="sum")
        teaches = bool(counts[0] > 0)  # else moments of earlier steps alone would move the weights
        totals = StepTotals(*counts.clamp_min(1), kl_coef, self.critic_alone(step))
        sums: defaultdict[str, Tensor | float] = defaultdict(float)
        losses: list[Tensor] = []

        def check(found: Sequence[Tensor]) -> None:
            self.guard.check_losses(found, experience, rows, step)

        def train_on(chosen: Sequence[int], last: bool = False) -> None:
            batch = self._micro_batch(experience, targets, [rows[index] for index in chosen])
            found = self._backward(batch, totals, last, check)
            losses.append(sum(loss.sum.detach() for loss in found.values()))
            new = {"count": found["policy"].count}
            new |= {f"loss/{role}": loss.sum.detach() for role, loss in found.items()}
            for loss in found.values():
                new |= loss.stats
            for name, total in new.items():
                sums[name] = sums[name] + total

        widths = [experience.sequence_lengths[row] for row in rows]
        if self._deepspeed:
            for group, last in self._equal_groups(widths):
                train_on(group, last and teaches)
            # The engine has stepped, unless the gradient was not finite.
            self.guard.weights_changed |= teaches and self.model.was_step_applied()
        else:
            self.batches.run(widths, train_on)
            self.gradients.sum_over_processes()
            check(losses)
        if not teaches:
            self.optimizer.zero_grad()
            return _Found(sums, {})  # no norms: no step
        norms = self._clip()
        self.guard.check_norm(norms["grad_norm"], experience, rows, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.guard.weights_changed = True
        return _Found(sums, norms)

    def _equal_groups(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], bool]]:
        """As many groups on every process, and which is the last: the engine exchanges gradients in each backward."""
        groups = micro_batches(lengths, self.batches.max_rows, self.batches.max_tokens)
        groups = split_into(groups, global_max(self.accelerator, len(groups)))
        yield from zip(groups, [False] * (len(groups) - 1) + [True], strict=True)

    def _micro_batch(self, experience: Experience, targets: Targets, rows: Sequence[int]) -> MicroBatch:
        responses = experience.rows(rows)
        items = [experience.items[row] for row in rows]
        index = torch.tensor(rows, device=responses.ids.device)
        width = responses.ids.shape[1]
        entropies, log_probs = experience.entropies, experience.log_probs[index, :width]
        engine = experience.engine_log_probs
        return MicroBatch(
            self.collector.policy_sequences(items, responses, experience.policy_images.select(rows)),
            self.collector.value_sequences(items, responses, experience.reward_images, rows),
            responses.counted,
            targets.learned[index, :width],
            log_probs,
            experience.ref_log_probs[index, :width],
            None if entropies is None else entropies[index, :width],
            None if targets.values is None else targets.values[index, :width],
            targets.advantages[index, :width],
            None if targets.returns is None else targets.returns[index, :width],
            self.objective.importance(
                log_probs, None if engine is None else engine[index, :width], responses.mask
            ),
        )

    def _backward(
        self,
        batch: MicroBatch,
        totals: StepTotals,
        last: bool,
        check: Callable[[Sequence[Tensor]], None],
    ) -> dict[str, LossSum]:
        """Add the gradients of one micro-batch; returns the losses of each trained role.

        Only DeepSpeed, which steps inside its last backward, reads `last` and has the loss checked here.
        Where the critic is alone the policy gets none; never under DeepSpeed.
        """
        tokens = totals.tokens
        if self._deepspeed:
            # One forward and one backward of one module, which is what an engine can follow.
            outputs = self.model(batch.policy_sequences, batch.value_sequences, batch.counted)
            found = {"policy": self.objective.of(batch, *outputs[:2], totals)}
            total = found["policy"].sum
            if outputs[2] is not None:
                found["value"] = self._value_loss(batch, outputs[2])
                total = total + self.arguments.vf_coef * found["value"].sum
            loss = total / tokens
            check([loss.detach()])
            self.accelerator.sync_gradients = last
            self.accelerator.backward(
                loss * self.accelerator.num_processes
            )  # the engine averages over processes
            return found
        # One role after the other: the activations of one are gone before those of the other are made.
        actor_critic = self.actor_critic
        gradients = {}
        if totals.critic_alone:  # nothing has moved since the rollout
            policy = self.objective.of(batch, batch.old_log_probs, batch.old_entropies, totals)
        else:
            outputs = actor_critic.policy_outputs(batch.policy_sequences, batch.counted)
            policy = self.objective.of(batch, *outputs, totals)
            gradients["policy"] = self.gradients.of("policy", policy.sum / tokens)
            policy = policy.detached()
        found = {"policy": policy}
        if batch.value_sequences is not None:
            value = self._value_loss(batch, actor_critic.value_outputs(batch.value_sequences))
            gradients["value"] = self.gradients.of("value", self.arguments.vf_coef * value.sum / tokens)
            found["value"] = value.detached()
        self.gradients.add(gradients)
        return found

    def _value_loss(self, batch: MicroBatch, values: Tensor) -> LossSum:
        return value_loss(
            values, batch.old_values, batch.returns, batch.learned, self.arguments.cliprange_value
        )

    def _clip(self) -> dict[str, float]:
        """Clip the gradients as `--numerics` says; returns the norms before clipping."""
        if self._deepspeed:
            # The engine owns the gradients, and clips them as `ppo_assembly` told it.
            return {"grad_norm": float(self.model.get_global_grad_norm() or 0.0)}
        self.accelerator.unscale_gradients(self.optimizer)
        norms = {
            role: nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            for role, parameters in self.roles.items()
        }
        joint = torch.stack([norm.to(self.accelerator.device) for norm in norms.values()]).norm()
        for role, parameters in self.roles.items():
            norm = joint if self.arguments.numerics.clips_jointly else norms[role]
            nn.utils.clip_grads_with_norm_(parameters, self.arguments.max_grad_norm, norm)
        return dict(zip(self._norm_names, map(float, (joint, *norms.values())), strict=True))

    @property
    def _norm_names(self) -> list[str]:
        return ["grad_norm", *(f"grad_norm_{role}" for role in self.roles if not self._deepspeed)]

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


class _Found(NamedTuple):
    """Of an optimizer step: sums over this process's tokens, and norms before clipping (none where it was not taken)."""

    sums: Mapping[str, Tensor | float]
    norms: Mapping[str, float]


def _finite_mean(numbers: Sequence[float]) -> float:
    # fp16 scaling skips steps whose gradient overflowed; their infinite norm is no measurement (and no JSON).
    finite = [number for number in numbers if math.isfinite(number)]
    return sum(finite) / max(len(finite), 1)
