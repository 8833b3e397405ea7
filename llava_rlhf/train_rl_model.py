"""PPO with a factually augmented reward model: policy, value, reference and reward over a shared frozen base."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DeepSpeedPlugin
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from data_utils.batches import collate_prompts
from data_utils.building import build_prompts
from data_utils.conversation import TEMPLATES
from data_utils.datasets import PromptDataset
from llava_rlhf.actor_critic import ActorCritic, ScoringSettings
from llava_rlhf.arguments import DataArguments, FactArguments, ModelArguments, RunArguments
from llava_rlhf.assemble import Cast, TextSide, cast_for_ppo, load_facts, load_text_side
from llava_rlhf.checkpoints import resume_folder
from llava_rlhf.guards import Guard
from llava_rlhf.kl_controller import AdaptiveKLController, FixedKLController
from llava_rlhf.optimization import OPTIMIZERS, learning_rate_schedule, make_optimizer
from llava_rlhf.parsing import StrictParser, run_program
from llava_rlhf.ppo import PPOTrainer
from llava_rlhf.ppo_arguments import BatchPlan, PPOArguments, RewardArguments, plan_batches
from llava_rlhf.ppo_checkpoints import PPOState
from llava_rlhf.ppo_update import PPOUpdater
from llava_rlhf.prompt_stream import PromptStream
from llava_rlhf.role_files import RewardModelCard, find_policy_adapter, read_reward_card
from llava_rlhf.rollout import RolloutCollector
from llava_rlhf.run_folder import write_arguments
from llava_rlhf.training import announce, start_logging
from models.generation import SamplingSettings

ARGUMENTS = (PPOArguments, RewardArguments, DataArguments, FactArguments, ModelArguments, RunArguments)

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Parse → check data, batches and reward model → load the bases → train. Raises ValueError for user errors."""
    # 1. Everything that can be refused is refused before a model is loaded.
    ppo, reward, data, fact_arguments, model_arguments, run = StrictParser(
        ARGUMENTS, description=__doc__
    ).parse(argv)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    start_logging(rank == 0)
    policy_adapter = find_policy_adapter(ppo.policy_model_name_or_path)
    card = read_reward_card(ppo.reward_model_name_or_path)
    judge_base = ppo.reward_base_model_name or card.base_model
    text, judge_text = load_text_sides(ppo.base_model_name, judge_base, data.image_aspect_ratio)
    dataset = load_prompts(ppo, data, fact_arguments, text, judge_text, card)
    announce(dataset.report, rank == 0)
    plan = plan_batches(ppo, world_size, len(dataset))
    if ppo.optim not in OPTIMIZERS:
        raise ValueError(f"--optim {ppo.optim}: choose from {', '.join(OPTIMIZERS)}")
    learning_rate = learning_rate_schedule(
        ppo.lr_scheduler_type, ppo.learning_rate, ppo.warmup_steps, plan.ppo_steps
    )
    checkpoint = resume_folder(run.resume, ppo.output_dir)
    if run.summary_only:
        return

    # 2. The roles.
    accelerator = make_accelerator(ppo, plan)
    set_seed(ppo.seed)
    if accelerator.is_main_process:
        write_arguments(ppo.output_dir, (ppo, reward, data, fact_arguments, model_arguments, run))
    cast = cast_for_ppo(
        ppo.base_model_name,
        judge_base,
        policy_adapter,
        Path(ppo.reward_model_name_or_path),
        model_arguments.base_settings(ppo.bf16, ppo.fp16, accelerator.device),
        ppo.init_value_with_reward,
        ppo.gradient_checkpointing,
    )

    # 3. The loop.
    trainer = assemble_trainer(
        accelerator, ppo, reward, data, plan, cast, text, len(dataset), judge_base, learning_rate
    )
    first_step = trainer.state.load(checkpoint) if checkpoint else 0
    if accelerator.is_main_process:
        logger.info("PPO steps %d … %d of %d", first_step + 1, plan.ppo_steps, plan.ppo_steps)
    loader = DataLoader(
        dataset,
        batch_sampler=list(
            trainer.stream.micro_batches(first_step, plan.ppo_steps, ppo.rollout_per_device_batch_size)
        ),
        collate_fn=collate_prompts,
        num_workers=ppo.dataloader_num_workers,
    )
    trainer.train(iter(loader), first_step)

    # 4. The result.
    trainer.state.save_roles(Path(ppo.output_dir))
    accelerator.end_training()


def load_text_sides(policy_base: str, judge_base: str, image_aspect_ratio: str) -> tuple[TextSide, TextSide]:
    """Tokenizers and image pipelines of both bases. Raises ValueError when their vocabularies differ."""
    text = load_text_side(policy_base, image_aspect_ratio)
    if Path(judge_base).resolve() == Path(policy_base).resolve():
        return text, text
    judge = load_text_side(judge_base, image_aspect_ratio)
    if (
        judge.tokenizer.get_vocab() != text.tokenizer.get_vocab()
        or judge.image_token_id != text.image_token_id
    ):
        raise ValueError(
            f"{policy_base} and {judge_base} have different tokenizers; the judge reads the policy's token ids, "
            "so both must share one vocabulary"
        )
    return text, judge


def load_prompts(
    ppo: PPOArguments,
    data: DataArguments,
    fact_arguments: FactArguments,
    text: TextSide,
    judge_text: TextSide,
    card: RewardModelCard,
) -> PromptDataset:
    """The prompts, judged as the reward model was trained to judge.

    Raises:
        ValueError: other judging conditions than the reward model's, without --allow_prompt_change; bad data.
    """
    facts, prompt = load_facts(fact_arguments)
    now = RewardModelCard(
        card.base_model, prompt.text, prompt.uses_facts, data.version, data.image_aspect_ratio
    )
    differences = card.differences(now)
    if differences and not ppo.allow_prompt_change:
        raise ValueError(
            f"{ppo.reward_model_name_or_path} was trained under other conditions: "
            + "; ".join(differences)
            + ". Use the same, or --allow_prompt_change True."
        )
    return build_prompts(
        data.dataset_path,
        image_folder=data.image_folder,
        encoder=text.encoder,
        template=TEMPLATES[data.version],
        pipeline=text.pipeline,
        reward_pipeline=None if judge_text is text else judge_text.pipeline,
        facts=facts,
        prompt=prompt,
        query_len=data.query_len,
        response_len=data.response_len,
        model_max_length=data.model_max_length,
        seed=ppo.seed,
        skip_invalid=data.skip_invalid,
    )


def make_accelerator(ppo: PPOArguments, plan: BatchPlan) -> Accelerator:
    """Processes and devices; DDP by default, DeepSpeed when a configuration is given."""
    plugin = None
    if ppo.deepspeed is not None:
        config = json.loads(Path(ppo.deepspeed).read_text())
        config.update(
            train_micro_batch_size_per_gpu=ppo.step_per_device_batch_size,
            gradient_accumulation_steps=plan.accumulation,
            train_batch_size=ppo.step_batch_size,
            gradient_clipping=ppo.max_grad_norm,
            bf16={"enabled": ppo.bf16},
            fp16={"enabled": ppo.fp16},
        )
        plugin = DeepSpeedPlugin(hf_ds_config=config)
    # With a plugin, `cpu=True` would quietly give DDP.
    accelerator = Accelerator(
        cpu=True if ppo.use_cpu and plugin is None else None,
        mixed_precision="bf16" if ppo.bf16 else "fp16" if ppo.fp16 else "no",
        gradient_accumulation_steps=plan.accumulation,
        deepspeed_plugin=plugin,
        dataloader_config=DataLoaderConfiguration(),
        log_with=None if ppo.report_to == "none" else ppo.report_to.split(","),
        project_dir=ppo.output_dir,
    )
    if ppo.report_to != "none":
        accelerator.init_trackers("llava_rlhf")
    return accelerator


def assemble_trainer(
    accelerator: Accelerator,
    ppo: PPOArguments,
    reward: RewardArguments,
    data: DataArguments,
    plan: BatchPlan,
    cast: Cast,
    text: TextSide,
    n_prompts: int,
    judge_base: str,
    learning_rate: Callable[[int], float],
) -> PPOTrainer:
    """Put the parts of the loop together."""
    tokenizer, vocabulary = text.tokenizer, cast.policy.bank.vlm.vocab_size
    # The image placeholder, and rows of the embedding that stand for no token.
    banned = (
        text.image_token_id,
        *(index for index in range(len(tokenizer), vocabulary) if index != text.image_token_id),
    )
    scoring = ScoringSettings(
        ppo.temperature, ppo.logits_chunk_size, torch.tensor(banned, device=accelerator.device)
    )
    sampling = SamplingSettings(
        data.response_len,
        stop_ids(text, ppo.stop_at_question_mark),
        tokenizer.pad_token_id,
        ppo.temperature,
        banned,
    )
    collector = RolloutCollector(cast, tokenizer, sampling, scoring, ppo.reward_model_per_device_batch_size)
    actor_critic = ActorCritic(cast.policy, cast.value, scoring)
    trained = [parameter for role in actor_critic.roles().values() for parameter in role]
    optimizer = make_optimizer(ppo.optim, trained, ppo.learning_rate, ppo.weight_decay)
    model, optimizer = accelerator.prepare(actor_critic, optimizer)
    stream = PromptStream(
        n_prompts, ppo.rollout_batch_size, accelerator.process_index, accelerator.num_processes, ppo.seed
    )
    controller = (
        FixedKLController(reward.kl_coef)
        if reward.kl_controller == "fixed"
        else AdaptiveKLController(reward.kl_coef, reward.kl_target, reward.kl_horizon)
    )
    guard = Guard(accelerator, ppo.output_dir)
    return PPOTrainer(
        accelerator=accelerator,
        arguments=ppo,
        reward_arguments=reward,
        plan=plan,
        response_len=data.response_len,
        stream=stream,
        collector=collector,
        updater=PPOUpdater(accelerator, model, optimizer, collector, ppo, plan, stream, guard),
        kl_controller=controller,
        learning_rate=learning_rate,
        state=PPOState(
            accelerator,
            model,
            optimizer,
            cast.policy,
            cast.value,
            controller,
            ppo.base_model_name,
            judge_base,
        ),
        guard=guard,
    )


def stop_ids(text: TextSide, at_question_mark: bool) -> tuple[int, ...]:
    """Tokens that end a response: the stop token, and on request every token that is a question mark."""
    ids = [text.tokenizer.eos_token_id]
    if at_question_mark:
        ids += [index for token, index in text.tokenizer.get_vocab().items() if token.lstrip("▁Ġ ") == "?"]
    return tuple(ids)


if __name__ == "__main__":
    run_program(main)
