"""Proximal policy optimisation of a vision-language policy (arXiv 1707.06347, 2309.14525): the loop, numbered.

Left out on purpose: a value loss without clipping, top-p or top-k sampling, and any credit for tokens after the stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import trange

from data_utils.batches import PromptBatch
from llava_rlhf.functional.advantages import generalized_advantages
from llava_rlhf.functional.losses import explained_variance
from llava_rlhf.functional.masked import moments, whiten
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.batch_plan import BatchPlan
from llava_rlhf.ppo.checkpoints import PPOState
from llava_rlhf.ppo.guards import Guard, GuardError, LimitError
from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.ppo.prompt_stream import PromptStream
from llava_rlhf.ppo.reward_shaping import ShapedReward, shape_rewards
from llava_rlhf.ppo.rollout import Experience, RolloutCollector
from llava_rlhf.ppo.rollout_rows import rollout_row
from llava_rlhf.ppo.trackers import RolloutTable
from llava_rlhf.ppo.update import PPOUpdater, Targets
from llava_rlhf.runs.checkpoints import COMPLETE, checkpoint_folder, delete_oldest
from llava_rlhf.runs.metrics import one_line
from llava_rlhf.runs.pace import Pace
from llava_rlhf.runs.random_state import random_state
from llava_rlhf.runs.reductions import global_moments, global_sums
from llava_rlhf.runs.run_folder import JsonLines, delete_rollouts, write_rollouts
from llava_rlhf.runs.stopping import StoppedBySignal, StopSignals


@dataclass
class PPOTrainer:
    """The loop over PPO steps.

    Attributes:
        accelerator: processes and devices.
        arguments, reward_arguments, plan: numbers.
        response_len: longest response in tokens.
        stream: which prompts belong to which step.
        collector, updater: the two halves of a step.
        kl_controller: weight of the KL penalty.
        learning_rate: of each PPO step, counted from 0.
        state: what a checkpoint holds.
        guard: stops on non-finite numbers and at the limits that the user set.
        rollout_table: where rollouts are shown besides, with their pictures.
        on_progress: callback that is told what begins, again and again; the watchdog's.
    """

    accelerator: Accelerator
    arguments: PPOArguments
    reward_arguments: RewardArguments
    plan: BatchPlan
    response_len: int
    stream: PromptStream
    collector: RolloutCollector
    updater: PPOUpdater
    kl_controller: FixedKLController | AdaptiveKLController
    learning_rate: Callable[[int], float]
    state: PPOState
    guard: Guard
    _metrics_file: JsonLines | None = field(default=None, init=False)
    rollout_table: RolloutTable | None = None
    _pace: Pace | None = field(default=None, init=False)
    on_progress: Callable[[str], None] = lambda phase: None

    def train(self, batches: Iterator[PromptBatch], first_step: int, metrics_lines: int = 0) -> None:
        """Run PPO steps `first_step` (from 0) to the end.

        Args:
            batches: the sampling passes of all remaining steps, in order.
            first_step: steps already done.
            metrics_lines: of `metrics.jsonl` that those steps wrote; later ones are dropped.

        Raises:
            NonFiniteError: after the state before the failing step was saved, where it still exists.
            StoppedBySignal: after the state was saved. While prompts are sampled that is the state before the step; an
                update that has begun is ended first.
            LimitError: after the weights were written apart from the checkpoints.
        """
        output_dir = Path(self.arguments.output_dir)
        if self._main:
            self._metrics_file = JsonLines(output_dir / "metrics.jsonl", metrics_lines)
            delete_rollouts(output_dir, first_step)
            self._delete_old_checkpoints()
        self.guard.begin(first_step)
        self._pace = Pace(first_step, self.plan.ppo_steps)
        with StopSignals() as signals:
            for step in range(first_step, self.plan.ppo_steps):
                random = random_state()
                try:
                    metrics = self._step(batches, step, output_dir, signals)
                except GuardError as error:
                    self._keep_what_is_good(step, isinstance(error, LimitError), random)
                    raise
                except StoppedBySignal:
                    self._save_unless_there(step, random)
                    raise
                self._end_step(step + 1, metrics, signals)

    def _end_step(self, done: int, metrics: dict[str, float], signals: StopSignals) -> None:
        """Log, and save if it is time or a signal asks for it."""
        self.accelerator.log(metrics, step=done)
        if self._metrics_file is not None:
            self._metrics_file.append({"step": done, **metrics})
            line = one_line(done, self.plan.ppo_steps, metrics)
            print(f"{line}  {self._pace.after(done)}", flush=True)
        last = done == self.plan.ppo_steps
        stop = signals.agreed(self.accelerator)
        if stop or last or done % self.arguments.save_steps == 0:
            self._save(done, random_state())
        if stop and not last:
            raise StoppedBySignal(stop)

    @property
    def _main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def _quiet(self) -> bool | None:
        return None if self._main else True  # None: a progress bar on a terminal, nothing in a log file

    def _step(
        self, batches: Iterator[PromptBatch], step: int, output_dir: Path, signals: StopSignals
    ) -> dict[str, float]:
        self.guard.weights_changed = False
        # 1. Sample responses, and let the four roles score them.
        started = time.perf_counter()
        passes = trange(
            self.plan.rollout_micro_batches, desc="rollout", unit="batch", leave=False, disable=self._quiet
        )
        experience = self.collector.collect(
            self._prompts(batches, passes, step, signals),
            self.stream.uniforms(step, self.response_len).to(self.accelerator.device),
            self.stream.sampling_order(step),
        )
        self.guard.check_experience(experience, step)
        # 2. Shape the reward.
        kl_coef = self.kl_controller.value
        shaped = shape_rewards(experience, self.response_len, self.reward_arguments, kl_coef)
        self.guard.check_rewards(shaped.rewards, experience, step)
        # 3. Advantages and returns.
        targets, metrics = self._targets(experience, shaped)
        metrics |= self._rollout_metrics(experience, shaped)
        self.guard.check_limits(metrics, experience, shaped, step)
        metrics |= {"objective/kl_coef": kl_coef, "objective/lr": self.learning_rate(step)}
        metrics["time/rollout"] = time.perf_counter() - started
        # 4. Update policy and value.
        signals.stop_if_agreed(self.accelerator)
        started = time.perf_counter()
        on_progress = partial(self.on_progress, f"update, step {step + 1}")
        metrics |= self.updater.update(experience, targets, step, self.learning_rate(step), on_progress)
        metrics["time/update"] = time.perf_counter() - started
        # 5. Adapt the KL weight; write the rollouts.
        self.kl_controller.update(metrics["objective/kl_sum_seq"], self.arguments.rollout_batch_size)
        self._write_rollouts(experience, shaped, step, output_dir)
        return metrics

    def _prompts(
        self, batches: Iterator[PromptBatch], passes: Iterable[int], step: int, signals: StopSignals
    ) -> Iterator[PromptBatch]:
        for _ in passes:
            self.on_progress(f"rollout, step {step + 1}")
            signals.stop_if_agreed(self.accelerator)
            yield next(batches)
        self.on_progress(f"scoring, step {step + 1}")

    def _targets(self, experience: Experience, shaped: ShapedReward) -> tuple[Targets, dict[str, float]]:
        mask, rewards = experience.counted, shaped.rewards
        if self.reward_arguments.whiten_rewards:
            everywhere = global_moments(self.accelerator, moments(rewards, mask))
            rewards = whiten(rewards, mask, everywhere, shift_mean=False)
        else:
            rewards = rewards * self.reward_arguments.reward_scale
        advantages, returns = generalized_advantages(
            rewards, experience.values, mask, self.arguments.gamma, self.arguments.lam
        )
        everywhere = global_moments(self.accelerator, moments(advantages, mask))
        return_moments = global_moments(self.accelerator, moments(returns, mask))
        value_moments = global_moments(self.accelerator, moments(experience.values, mask))
        residual = global_moments(self.accelerator, moments(returns - experience.values, mask))
        sums = global_sums(self.accelerator, {"rows": len(mask), "shaped": shaped.rewards.sum()})
        metrics = {
            "objective/shaped_rewards": sums["shaped"] / sums["rows"],
            "ppo/returns/mean": float(return_moments.mean),
            "ppo/returns/var": float(return_moments.var),
            "ppo/val/mean": float(value_moments.mean),
            "ppo/val/var": float(value_moments.var),
            "ppo/val/explained_variance": float(explained_variance(residual, return_moments)),
        }
        return Targets(whiten(advantages, mask, everywhere, shift_mean=True), returns), metrics

    def _rollout_metrics(self, experience: Experience, shaped: ShapedReward) -> dict[str, float]:
        mask, lengths = experience.counted, experience.lengths
        kl_per_row = shaped.kl.sum(dim=1)
        per_row = {
            "objective/kl_sum_seq": kl_per_row,
            "objective/kl_avg_seq": kl_per_row / mask.sum(dim=1),
            "objective/log_ratio": ((experience.log_probs - experience.ref_log_probs) * mask).sum(dim=1),
            "objective/reward_model": experience.scores,
            "objective/stop_penalty": shaped.stop_penalty,
            "objective/length_bonus": shaped.length_bonus,
            "objective/correct_bonus": shaped.correct_bonus,
            "objective/rewards": shaped.score,
            "objective/non_score_rewards": shaped.non_score.sum(dim=1),
            "response/length_mean": lengths,
            "response/stop_rate": experience.stopped,
        }
        per_token = {}
        if experience.entropies is not None:
            per_token = {
                "objective/entropies": experience.entropies,
                "objective/ref_entropies": experience.ref_entropies,
            }
        sums = {name: values.double().sum() for name, values in per_row.items()}
        sums |= {name: (values * mask).double().sum() for name, values in per_token.items()}
        totals = global_sums(self.accelerator, sums | {"rows": len(lengths), "tokens": mask.sum()})
        metrics = {name: totals[name] / totals["rows"] for name in per_row}
        metrics |= {name: totals[name] / totals["tokens"] for name in per_token}
        scores = global_moments(self.accelerator, moments(shaped.score, torch.ones_like(experience.stopped)))
        metrics["objective/rewards_std"] = float(scores.var.sqrt())
        everyone = self.accelerator.gather(lengths).double()
        metrics["response/length_p50"] = float(everyone.quantile(0.5))
        metrics["response/length_p95"] = float(everyone.quantile(0.95))
        return metrics

    def _write_rollouts(
        self, experience: Experience, shaped: ShapedReward, step: int, output_dir: Path
    ) -> None:
        rows = [
            rollout_row(experience, shaped, row, self.response_len) for row in range(len(experience.items))
        ]
        if self.accelerator.num_processes > 1:
            gathered: list[Any] = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(gathered, rows)
            # Rank r holds global positions r, r + world, …
            rows = [row for group in zip(*gathered, strict=True) for row in group]
        if self._main:
            write_rollouts(output_dir, step + 1, rows)
            if self.rollout_table is not None:
                self.rollout_table.log(step + 1, rows)

    def _save(self, done: int, random: Mapping[str, Any]) -> None:
        self.on_progress(f"checkpoint, step {done}")
        epoch, step_of_epoch = divmod(done, self.stream.steps_per_epoch)
        place = {
            "epoch": epoch,
            "prompts_done_in_epoch": step_of_epoch * self.stream.rollout_batch_size,
            "metrics_lines": 0 if self._metrics_file is None else self._metrics_file.lines,
        }
        self.state.save(checkpoint_folder(self.arguments.output_dir, done), done, place, random)
        if self._main:
            self._delete_old_checkpoints()
        self.accelerator.wait_for_everyone()

    def _delete_old_checkpoints(self) -> None:
        delete_oldest(self.arguments.output_dir, self.arguments.save_total_limit)

    def _save_unless_there(self, done: int, random: Mapping[str, Any]) -> None:
        if done > 0 and not (checkpoint_folder(self.arguments.output_dir, done) / COMPLETE).exists():
            self._save(done, random)

    def _keep_what_is_good(self, step: int, past_limit: bool, random: Mapping[str, Any]) -> None:
        if self.guard.weights_changed or past_limit:
            # Past a limit, or with some optimizer steps of this PPO step in: not a state to continue from, and no reason
            # to delete an older one.
            self.state.save_roles(Path(self.arguments.output_dir) / f"stopped-in-step-{step + 1}")
            self.accelerator.wait_for_everyone()
        else:
            self._save_unless_there(step, random)
