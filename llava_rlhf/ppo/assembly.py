"""Settings and roles → the PPO loop: processes, optimizer, sampling, checkpoint state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs, PartialState
from torch import nn

from data_utils.datasets import PromptDataset
from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.roles import PPORoles, TextSide, unsampled_ids
from llava_rlhf.engines.arguments import EngineArguments
from llava_rlhf.engines.making import make_engine
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.hub.places import base_name
from llava_rlhf.ppo.actor_critic import ActorCritic, ScoringSettings
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.batch_plan import BatchPlan
from llava_rlhf.ppo.checkpoints import PPOState
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.fact_scorers import make_fact_scorer
from llava_rlhf.ppo.guards import Guard
from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.ppo.limits import GuardArguments
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.optimization import clip_each_group, make_optimizer
from llava_rlhf.ppo.policy_objective import PolicyObjective
from llava_rlhf.ppo.prompt_stream import PromptStream
from llava_rlhf.ppo.return_normalizer import ReturnNormalizer
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.targets import TargetMaker
from llava_rlhf.ppo.trackers import RolloutTable, names
from llava_rlhf.ppo.trainer import PPOTrainer
from llava_rlhf.ppo.update import PPOUpdater
from llava_rlhf.runs.arguments import DataArguments, FactArguments, ModelArguments, RunArguments
from llava_rlhf.runs.checkpoints import leave_frozen_weights_out
from llava_rlhf.runs.ensemble_arguments import EnsembleArguments
from llava_rlhf.runs.reductions import global_max
from models.generation import SamplingSettings

# ZeRO-3 steps so many numbers at once: a whole role, whose gradient is clipped by one norm.
WHOLE_GROUP = 10**15


@dataclass(frozen=True)
class PPOSettings:
    """Every setting of a PPO run."""

    ppo: PPOArguments
    reward: RewardArguments
    data: DataArguments
    facts: FactArguments
    model: ModelArguments
    run: RunArguments
    guards: GuardArguments = field(default_factory=GuardArguments)
    estimator: EstimatorArguments = field(default_factory=EstimatorArguments)
    loss: LossArguments = field(default_factory=LossArguments)
    ensemble: EnsembleArguments = field(default_factory=EnsembleArguments)
    engine: EngineArguments = field(default_factory=EngineArguments)
    fact_reward: FactRewardArguments = field(default_factory=FactRewardArguments)


def make_accelerator(ppo: PPOArguments, plan: BatchPlan, ddp_timeout: int = 1800) -> Accelerator:
    """Processes and devices; DDP by default, DeepSpeed when a configuration is given.

    `ddp_timeout` is how many seconds a process waits for the others.
    """
    timeout = timedelta(seconds=ddp_timeout)
    plugin = None
    if ppo.deepspeed is not None:
        config = ppo.deepspeed_config()
        config.update(
            # How many backward passes make an optimizer step is told to it in each of them.
            train_micro_batch_size_per_gpu=ppo.step_batch_size // plan.world_size,
            gradient_accumulation_steps=1,
            train_batch_size=ppo.step_batch_size,
            # Its engine clips all gradients together; 0: not at all, `clip_each_group` does it.
            gradient_clipping=ppo.max_grad_norm if ppo.numerics.clips_jointly else 0.0,
            bf16={"enabled": ppo.bf16},
            fp16={"enabled": ppo.fp16},
        )
        if ppo.divides_base:
            config["zero_optimization"]["sub_group_size"] = WHOLE_GROUP
        plugin = DeepSpeedPlugin(hf_ds_config=config)
    if ppo.use_cpu:
        PartialState(cpu=True, timeout=timeout)  # processes talk by gloo
    # With a plugin, `cpu=True` would quietly give DDP.
    accelerator = Accelerator(
        cpu=True if ppo.use_cpu and plugin is None else None,
        mixed_precision="bf16" if ppo.bf16 else "fp16" if ppo.fp16 else "no",
        deepspeed_plugin=plugin,
        log_with=names(ppo.report_to) or None,
        project_dir=ppo.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
    )
    if ppo.divides_base:
        # `from_pretrained` divides the base, and nobody has told DeepSpeed of the other processes yet.
        import deepspeed  # heavy, and optional for everything else

        deepspeed.init_distributed()
    if ppo.report_to != "none":
        accelerator.init_trackers("llava_rlhf", config=trackable(ppo))
    return accelerator


def trackable(ppo: PPOArguments) -> dict[str, int | float | str | bool]:
    """The settings that every tracker takes: numbers, strings and booleans."""
    return {name: value for name, value in vars(ppo).items() if isinstance(value, (int, float, str, bool))}


def assemble_trainer(
    accelerator: Accelerator,
    settings: PPOSettings,
    plan: BatchPlan,
    roles: PPORoles,
    text: TextSide,
    prompt_lengths: Sequence[int],
    reward_base: str,
    learning_rate: Callable[[int], float],
    record: Mapping[str, Any],
    caches: Mapping[str, FeatureFiles] | None = None,
    prompts: PromptDataset | None = None,
) -> PPOTrainer:
    """Put the parts of the loop together; `prompt_lengths` in tokens, `caches` and `prompts` as for `make_collector`.

    The optimizer holds the trained weights of policy and value. `record` is that of the run.
    """
    ppo, estimator = settings.ppo, settings.estimator
    collector = make_collector(roles, text, settings, accelerator, caches, prompts)
    actor_critic = _make_actor_critic(roles, collector.scoring, ppo.divides_base)
    trained = list(actor_critic.roles().values())
    optimizer = make_optimizer(ppo.optim, trained, ppo.learning_rate, ppo.weight_decay)
    model, optimizer = _prepare(accelerator, ppo, actor_critic, optimizer)
    stream = make_stream(accelerator, settings, prompt_lengths)
    controller = make_kl_controller(settings.reward)
    normalizer = ReturnNormalizer(roles.value.head) if estimator.normalize_returns else None
    objective = PolicyObjective(
        ppo.cliprange, settings.loss, settings.reward.kl_estimator, settings.data.response_len
    )
    guard = Guard(accelerator, ppo.output_dir, settings.guards)
    return PPOTrainer(
        accelerator=accelerator,
        arguments=ppo,
        reward_arguments=settings.reward,
        loss_arguments=settings.loss,
        plan=plan,
        response_len=settings.data.response_len,
        stream=stream,
        collector=collector,
        target_maker=TargetMaker(accelerator, ppo, settings.reward, estimator, settings.loss, normalizer),
        updater=PPOUpdater(
            *(accelerator, model, optimizer, collector, objective, ppo, estimator, stream, guard)
        ),
        kl_controller=controller,
        learning_rate=learning_rate,
        state=PPOState(
            accelerator,
            model,
            optimizer,
            roles.policy,
            roles.value,
            controller,
            normalizer,
            base_name(ppo.base_model_name),
            base_name(reward_base),
            record,
        ),
        guard=guard,
        rollout_table=make_rollout_table(accelerator, settings),
    )


def make_stream(
    accelerator: Accelerator, settings: PPOSettings, prompt_lengths: Sequence[int]
) -> PromptStream:
    """Which prompts this process answers, and how often each."""
    return PromptStream(
        len(prompt_lengths),
        settings.ppo.rollout_batch_size,
        accelerator.process_index,
        accelerator.num_processes,
        settings.ppo.seed,
        prompt_lengths,
        settings.estimator.samples_per_prompt,
    )


def make_rollout_table(accelerator: Accelerator, settings: PPOSettings) -> RolloutTable | None:
    """The table that `--report_to wandb` and `--rollout_table_steps` ask for."""
    ppo = settings.ppo
    if "wandb" not in names(ppo.report_to) or ppo.rollout_table_steps == 0:
        return None
    return RolloutTable(accelerator.get_tracker("wandb"), settings.data.image_folder, ppo.rollout_table_steps)


def _make_actor_critic(roles: PPORoles, scoring: ScoringSettings, divided: bool) -> ActorCritic:
    """What accelerate wraps; where it divides weights, with the base that only reward models stand on."""
    beside = roles.reward.bank if divided and not (roles.shared or roles.value) else None
    actor_critic = ActorCritic(roles.policy, roles.value, scoring, beside)
    leave_frozen_weights_out(actor_critic)
    return actor_critic


def _prepare(
    accelerator: Accelerator, ppo: PPOArguments, actor_critic: ActorCritic, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    if ppo.deepspeed is None:  # without DDP, see `gradients`
        model = accelerator.prepare_model(actor_critic, evaluation_mode=True)
        return model, accelerator.prepare_optimizer(optimizer)
    if not ppo.numerics.clips_jointly:
        clip_each_group(optimizer, ppo.max_grad_norm)
    return accelerator.prepare(actor_critic, optimizer)


def make_collector(
    roles: PPORoles,
    text: TextSide,
    settings: PPOSettings,
    accelerator: Accelerator,
    caches: Mapping[str, FeatureFiles] | None = None,
    prompts: PromptDataset | None = None,
) -> RolloutCollector:
    """How responses are sampled and scored; `caches` as for `RolloutCollector`, `prompts` as for `make_engine`."""
    ppo, tokenizer = settings.ppo, text.tokenizer
    most = partial(global_max, accelerator) if ppo.divides_base else None
    banned = unsampled_ids(text, roles.policy.bank.vlm.vocab_size)
    sampling = SamplingSettings(
        settings.data.response_len,
        stop_ids(text, ppo.stop_at_question_mark),
        tokenizer.pad_token_id,
        ppo.temperature,
        tuple(banned.tolist()),
    )
    scoring = ScoringSettings(
        *(ppo.temperature, ppo.logits_chunk_size, banned.to(accelerator.device), ppo.log_entropy),
        entropy_gradient=settings.loss.entropy_coef > 0,
    )
    return RolloutCollector(
        roles,
        tokenizer,
        text.stop_ids,
        make_engine(
            settings.engine,
            roles.policy,
            sampling,
            text,
            prompts,
            settings.data.image_folder,
            ppo.output_dir,
            ppo.base_model_name,
            ppo.merge_adapter_for_sampling,
        ),
        scoring,
        MicroBatches(ppo.rollout_per_device_batch_size, ppo.tokens_per_micro_batch, most),
        MicroBatches(ppo.reward_model_per_device_batch_size, ppo.tokens_per_micro_batch, most),
        ppo.numerics,
        caches,
        settings.reward.reward_placement == "sentence",
        settings.ensemble.beta,
        settings.estimator.value_sees_facts,
        make_fact_scorer(roles, text, settings, accelerator.process_index),
    )


def make_kl_controller(reward: RewardArguments) -> FixedKLController | AdaptiveKLController:
    """The controller that `--kl_controller` names."""
    if reward.kl_controller == "fixed":
        return FixedKLController(reward.kl_coef)
    return AdaptiveKLController(reward.kl_coef, reward.kl_target, reward.kl_horizon)


def stop_ids(text: TextSide, at_question_mark: bool) -> tuple[int, ...]:
    """Tokens that end a response: those of the base, and on request every token that is a question mark."""
    ids = [*text.stop_ids]
    if at_question_mark:
        ids += [index for token, index in text.tokenizer.get_vocab().items() if token.lstrip("▁Ġ ") == "?"]
    return tuple(ids)
