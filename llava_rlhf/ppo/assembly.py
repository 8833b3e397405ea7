"""Settings and roles → the PPO loop: processes, optimizer, sampling, checkpoint state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs, PartialState
from torch import nn

from data_utils.feature_files import FeatureFiles
from llava_rlhf.assembly.roles import PPORoles, TextSide, unsampled_ids
from llava_rlhf.hub.places import base_name
from llava_rlhf.ppo.actor_critic import ActorCritic, ScoringSettings
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.batch_plan import BatchPlan
from llava_rlhf.ppo.checkpoints import PPOState
from llava_rlhf.ppo.guards import Guard
from llava_rlhf.ppo.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.ppo.limits import GuardArguments
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.optimization import clip_each_group, make_optimizer
from llava_rlhf.ppo.prompt_stream import PromptStream
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.rollout_engine import PolicyEngine
from llava_rlhf.ppo.trackers import RolloutTable, names
from llava_rlhf.ppo.trainer import PPOTrainer
from llava_rlhf.ppo.update import PPOUpdater
from llava_rlhf.runs.arguments import DataArguments, FactArguments, ModelArguments, RunArguments
from llava_rlhf.runs.checkpoints import leave_frozen_weights_out
from models.generation import SamplingSettings


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
) -> PPOTrainer:
    """Put the parts of the loop together; `prompt_lengths` in tokens, `caches` as for `RolloutCollector`.

    The optimizer holds the trained weights of policy and value. `record` is that of the run.
    """
    ppo = settings.ppo
    collector = make_collector(roles, text, settings, accelerator.device, caches)
    actor_critic = ActorCritic(roles.policy, roles.value, collector.scoring)
    leave_frozen_weights_out(actor_critic)
    trained = list(actor_critic.roles().values())
    optimizer = make_optimizer(ppo.optim, trained, ppo.learning_rate, ppo.weight_decay)
    model, optimizer = _prepare(accelerator, ppo, actor_critic, optimizer)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    stream = PromptStream(
        len(prompt_lengths), ppo.rollout_batch_size, rank, world_size, ppo.seed, prompt_lengths
    )
    controller = make_kl_controller(settings.reward)
    guard = Guard(accelerator, ppo.output_dir, settings.guards)
    return PPOTrainer(
        accelerator=accelerator,
        arguments=ppo,
        reward_arguments=settings.reward,
        plan=plan,
        response_len=settings.data.response_len,
        stream=stream,
        collector=collector,
        updater=PPOUpdater(accelerator, model, optimizer, collector, ppo, stream, guard),
        kl_controller=controller,
        learning_rate=learning_rate,
        state=PPOState(
            accelerator,
            model,
            optimizer,
            roles.policy,
            roles.value,
            controller,
            base_name(ppo.base_model_name),
            base_name(reward_base),
            record,
        ),
        guard=guard,
        rollout_table=make_rollout_table(accelerator, settings),
    )


def make_rollout_table(accelerator: Accelerator, settings: PPOSettings) -> RolloutTable | None:
    """The table that `--report_to wandb` and `--rollout_table_steps` ask for."""
    ppo = settings.ppo
    if "wandb" not in names(ppo.report_to) or ppo.rollout_table_steps == 0:
        return None
    return RolloutTable(accelerator.get_tracker("wandb"), settings.data.image_folder, ppo.rollout_table_steps)


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
    device: torch.device,
    caches: Mapping[str, FeatureFiles] | None = None,
) -> RolloutCollector:
    """How responses are sampled and scored."""
    ppo, tokenizer = settings.ppo, text.tokenizer
    banned = unsampled_ids(text, roles.policy.bank.vlm.vocab_size)
    sampling = SamplingSettings(
        settings.data.response_len,
        stop_ids(text, ppo.stop_at_question_mark),
        tokenizer.pad_token_id,
        ppo.temperature,
        tuple(banned.tolist()),
    )
    scoring = ScoringSettings(ppo.temperature, ppo.logits_chunk_size, banned.to(device), ppo.log_entropy)
    return RolloutCollector(
        roles,
        tokenizer,
        PolicyEngine(roles.policy, sampling, ppo.merge_adapter_for_sampling),
        scoring,
        MicroBatches(ppo.rollout_per_device_batch_size, ppo.tokens_per_micro_batch),
        MicroBatches(ppo.reward_model_per_device_batch_size, ppo.tokens_per_micro_batch),
        ppo.numerics,
        caches,
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
