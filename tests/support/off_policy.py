"""PPO whose answers come from an engine with another distribution than the model that trains: `WARMTH CORRECTION CAP FLAGS…`.

No engine that a run can name answers so on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from data_utils.batches import PromptBatch
from llava_rlhf import train_rl_model
from llava_rlhf.engines.policy_engine import PolicyEngine
from llava_rlhf.ppo.actor_critic import Responses, ScoringSettings, join_responses, response_log_probs
from llava_rlhf.ppo.preparation import PPORun
from llava_rlhf.ppo.rollout import RolloutCollector
from models.generation import Sample, SamplingSettings
from models.packed_features import PackedFeatures
from models.roles import Policy


@dataclass(frozen=True)
class WarmEngine:
    """The policy in this process, at `warmth` times the temperature; says with which probability it drew each token."""

    policy: Policy
    settings: SamplingSettings
    scoring: ScoringSettings
    warmth: float

    def begin_step(self, step: int) -> None:
        """Nothing to do: the weights are the policy's own."""

    def rest(self) -> None:
        """Nothing to do: nobody is waited for."""

    def end(self) -> None:
        """Nothing to do: nobody else was asked."""

    def start(
        self, batch: PromptBatch, uniforms: Tensor, features: PackedFeatures | None
    ) -> Callable[[], Sample]:
        """As `RolloutEngine.start`."""
        temperature = self.settings.temperature * self.warmth
        engine = PolicyEngine(self.policy, replace(self.settings, temperature=temperature))
        sample = engine.start(batch, uniforms, features)()
        responses = Responses(sample.ids, sample.mask, sample.mask)
        prompts = [item.query_ids for item in batch.items]
        sequences = join_responses(
            prompts, responses, features, self.policy.bank.vlm, self.settings.pad_id, False
        )
        scoring = replace(self.scoring, temperature=temperature, entropy=False)
        log_probs, _ = response_log_probs(self.policy, sequences, sample.mask, scoring)
        return lambda: sample._replace(log_probs=log_probs.detach())


def use_warm_engine(collector: RolloutCollector, warmth: float) -> None:
    """From now on it answers."""
    policy = collector.roles.policy
    collector.engine = WarmEngine(policy, collector.engine.settings, collector.scoring, warmth)


@contextmanager
def _warm_engines(warmth: float) -> Iterator[None]:
    """Whatever loop the program puts together meanwhile samples so."""
    plain = train_rl_model.trainer_of

    def trainer_of(*parts):
        trainer = plain(*parts)
        use_warm_engine(trainer.collector, warmth)
        return trainer

    train_rl_model.trainer_of = trainer_of
    try:
        yield
    finally:
        train_rl_model.trainer_of = plain


def prepare(argv: Sequence[str]) -> tuple[float, PPORun]:
    """Check the flags; the correction is set behind the check, which knows no such engine."""
    warmth, correction, cap, *flags = argv
    prepared = train_rl_model.prepare(flags)
    loss = replace(prepared.settings.loss, importance_correction=correction, importance_cap=float(cap))
    return float(warmth), replace(prepared, settings=replace(prepared.settings, loss=loss))


def run(ready: tuple[float, PPORun]) -> None:
    """Run the program."""
    warmth, prepared = ready
    with _warm_engines(warmth):
        train_rl_model.run(prepared)


def run_off_policy(argv: Sequence[str], warmth: float, correction: str = "none", cap: float = 2.0) -> PPORun:
    """The program in this process."""
    ready = prepare([str(warmth), correction, str(cap), *argv])
    run(ready)
    return ready[1]
