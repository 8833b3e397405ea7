"""Proximal policy optimisation of a vision-language policy (arXiv 1707.06347, 2309.14525): the loop, numbered.

Left out on purpose: top-p or top-k sampling, and any credit for tokens after the stop.
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
from llava_rlhf.functional.masked import moments
from llava_rlhf.functional.rewards import ensemble_scores
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.batch_plan import BatchPlan
from llava_rlhf.ppo.checkpoints import PPOState
from llava_rlhf.ppo.engine_difference import EngineWatch, engine_metrics
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.guards import Guard, GuardError, LimitError
from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.prompt_stream import PromptStream
from llava_rlhf.ppo.reward_shaping import ShapedReward, shape_rewards
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.rollout_rows import rollout_row
from llava_rlhf.ppo.targets import TargetMaker, Targets
from llava_rlhf.ppo.trackers import RolloutTable
from llava_rlhf.ppo.update import PPOUpdater
from llava_rlhf.runs.checkpoints import COMPLETE, checkpoint_folder, delete_oldest
from llava_rlhf.runs.metrics import one_line
from llava_rlhf.runs.pace import Pace
from llava_rlhf.runs.random_state import random_state
from llava_rlhf.runs.reductions import global_moments, global_sums
from llava_rlhf.runs.run_folder import JsonLines, delete_rollouts, write_rollouts
from llava_rlhf.runs.stopping import EngineError, StoppedBySignal, StopSignals


@dataclass
class PPOTrainer:
    """The loop over PPO steps.

    Attributes:
        accelerator: processes and devices.
        arguments, reward_arguments, loss_arguments, plan: numbers.
        response_len: longest response in tokens.
        stream: which prompts belong to which step.
        collector, target_maker, updater: the parts of a step.
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
    loss_arguments: LossArguments
    plan: BatchPlan
    response_len: int
    stream: PromptStream
    collector: RolloutCollector
    target_maker: TargetMaker
    updater: PPOUpdater
    kl_controller: FixedKLController | AdaptiveKLController
    learning_rate: Callable[[int], float]
    state: PPOState
    guard: Guard
    _metrics_file: JsonLines | None = field(default=None, init=False)
    rollout_table: RolloutTable | None = None
    _pace: Pace | None = field(default=None, init=False)
    _engine_watch: EngineWatch = field(default_factory=EngineWatch, init=False)
    on_progress: Callable[[str], None] = lambda phase: None

    def train(self, batches: Iterator[PromptBatch], first_step: int, metrics_lines: int = 0) -> None:
        """Run PPO steps `first_step` (from 0) to the end.

        Args:
            batches: the sampling passes of all remaining steps, in order.
            first_step: steps already done.
            metrics_lines: of `metrics.jsonl` that those steps wrote; later ones are dropped.

        Raises:
            NonFiniteError: after the state before the failing step was saved, where it still exists.
            EngineError: nobody answers prompts; after the state before the step was saved.
            StoppedBySignal: after the state was saved. While prompts are sampled that is the state before the step; an
                update that has begun is ended first.
            LimitError: after the weights were written apart from the checkpoints.
        """
        output_dir = Path(self.arguments.output_dir)
        if self._main:
            self._metrics_file = JsonLines(output_dir / "metrics.jsonl", metrics_lines)
            delete_rollouts(output_dir, first_step)
            self._delete_old_checkpoints()
            self._engine_watch.begin(output_dir, first_step)
        self.guard.begin(first_step)
        self._pace = Pace(first_step, self.plan.ppo_steps)
        with StopSignals() as signals:
            try:
                for step in range(first_step, self.plan.ppo_steps):
                    self._step_or_save(batches, step, output_dir, signals)
            except (GuardError, StoppedBySignal):  # after an EngineError nobody may be there to be told
                self.collector.engine.end()
                raise
        self.collector.engine.end()

    def _step_or_save(
        self, batches: Iterator[PromptBatch], step: int, output_dir: Path, signals: StopSignals
    ) -> None:
        """A step with its log and checkpoint; where it stops, what is good is saved, and it raises as `train`."""
        random = random_state()
        try:
            metrics = self._step(batches, step, output_dir, signals)
        except GuardError as error:
            self._keep_what_is_good(step, isinstance(error, LimitError), random)
            raise
        except (StoppedBySignal, EngineError):
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
        # 1. Sample responses, and let all roles score them.
        started = time.perf_counter()
        self.collector.engine.begin_step(step)
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
        shaped = shape_rewards(
            experience, self.response_len, self.reward_arguments, kl_coef, self.loss_arguments
        )
        self.guard.check_rewards(shaped.rewards, experience, step)
        # 3. Advantages and returns.
        targets, metrics = self.target_maker.make(experience, shaped)
        metrics |= self._rollout_metrics(experience, shaped)
        metrics |= engine_metrics(self.accelerator, experience, self.loss_arguments)
        if self._main:
            self._engine_watch.look(step + 1, metrics, self.loss_arguments)
        self.guard.check_limits(metrics, experience, shaped, step)
        metrics |= {"objective/kl_coef": kl_coef, "objective/lr": self.learning_rate(step)}
        metrics["time/rollout"] = time.perf_counter() - started
        # 4. Update policy and value.
        signals.stop_if_agreed(self.accelerator)
        started = time.perf_counter()
        on_progress = partial(self.on_progress, f"update, step {step + 1}")
        aims = self.target_maker.in_critics_units(targets)
        learning_rate = self.learning_rate(step)
        metrics |= self.updater.update(experience, aims, step, learning_rate, kl_coef, on_progress)
        metrics["time/update"] = time.perf_counter() - started
        # 5. Adapt the KL weight, where the policy moves; write the rollouts.
        if not self.updater.critic_alone(step):
            self.kl_controller.update(metrics["objective/kl_sum_seq"], self.arguments.rollout_batch_size)
        self._write_rollouts(experience, shaped, targets, step, output_dir)
        return metrics

    def _prompts(
        self, batches: Iterator[PromptBatch], passes: Iterable[int], step: int, signals: StopSignals
    ) -> Iterator[PromptBatch]:
        for _ in passes:
            self.on_progress(f"rollout, step {step + 1}")
            signals.stop_if_agreed(self.accelerator)
            yield next(batches)
        self.on_progress(f"scoring, step {step + 1}")

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
        if experience.sentences is not None:
            counts = [len(ends) for ends in experience.sentences.ends]
            per_row["response/sentences_mean"] = torch.tensor(counts, device=mask.device)
        if experience.facts is not None:
            per_row |= {name: one.to(mask.device) for name, one in experience.facts.metrics().items()}
        if self.loss_arguments.overlong_responses == "mask":
            per_row["response/masked"] = shaped.masked
        if experience.member_scores is not None:
            per_row["objective/reward_spread"] = ensemble_scores(experience.member_scores, 0.0)[1]
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
        self, experience: Experience, shaped: ShapedReward, targets: Targets, step: int, output_dir: Path
    ) -> None:
        rows = [
            rollout_row(experience, shaped, targets, row, self.response_len)
            for row in range(len(experience.items))
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
            "prompts_done_in_epoch": step_of_epoch * self.stream.prompts_per_step,
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
            self.target_maker.undo_units()
            self._save_unless_there(step, random)
